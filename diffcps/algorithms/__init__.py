"""Learning algorithms: one file and one line here for each. ``base`` says what such a file holds.

An algorithm, and torch with it, is imported only when it is asked for. Reading a trial does not import them.
"""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffcps.algorithms import ways
from diffcps.algorithms.settings import Changes
from diffcps.config import RunConfig
from diffcps.errors import UserError, nearest

if TYPE_CHECKING:
    import torch

    from diffcps.algorithms.base import Algorithm, Inert

ALGORITHMS = {
    "diffcps": ".diffcps:DiffCPS",
    "weighted": ".weighted:WeightedCloning",
    "bc": ".bc:BC",
    "iql": ".iql:IQL",
    "td3bc": ".td3bc:TD3BC",
    "dql": ".dql:DQL",
    "edp": ".edp:EDP",
    "rebrac": ".rebrac:ReBRAC",
    "awac": ".awac:AWAC",
    "crr": ".crr:CRR",
    "dac": ".dac:DAC",
    "bdpo": ".bdpo:BDPO",
    "fql": ".fql:FQL",
    "idql": ".idql:IDQL",
    "cql": ".cql:CQL",
    "sfbc": ".sfbc:SfBC",
    "qgpo": ".qgpo:QGPO",
}
"""Name -> module, relative to this package or absolute, and class."""


def names() -> list[str]:
    """Every algorithm."""
    return list(ALGORITHMS)


def get(name: str) -> "type[Algorithm[Any]]":
    """The algorithm of that name. Raises ``UserError`` naming the nearest one when there is none."""
    if name not in ALGORITHMS:
        raise UserError(f"no algorithm is called {name!r}{nearest(name, names()) or '.'} Known: {', '.join(names())}.")
    module, cls = ALGORITHMS[name].split(":")
    found: type[Algorithm[Any]] = getattr(importlib.import_module(module, __name__), cls)
    return found


def settings(trial: RunConfig) -> tuple[Any, ...]:
    """The settings of each member as the algorithm's own dataclass, defaults filled in.

    Raises ``UserError`` when the algorithm has no such setting, or a value breaks a rule.
    """
    cls = get(trial.algorithm).settings
    found = tuple(_typed(cls, trial.algorithm, {**trial.settings, **member.settings}) for member in trial.members)
    cls.check_pack(found)
    return found


def complete(trial: RunConfig) -> RunConfig:
    """The trial with every setting of its algorithm; missing ones get defaults.

    Raises ``UserError`` as ``settings`` does, and when settings, length and evaluation do not fit together.
    """
    algorithm, found = get(trial.algorithm), settings(trial)
    profile(trial)
    check_acting(trial, trial.evaluation.candidates, trial.evaluation.actor)
    for own in found:
        algorithm.check(trial, own)
    others = [way for way in other_ways(trial) if not way.is_own(trial)]
    if ways.STUDENT.value in algorithm.actors(found[0]) and trial.evaluation.actor != ways.STUDENT.value:
        others = list(dict.fromkeys([*others, ways.STUDENT]))  # it is always seen beside the policy
    values = [own.to_dict() for own in found]
    members = tuple(member.replaced(settings=own) for member, own in zip(trial.members, values, strict=True))
    return trial.replaced(
        settings=values[0], members=members, symbols=algorithm.settings.symbols(), acting=tuple(map(str, others))
    )


def teaches(name: str) -> bool:
    """Whether a student can learn along with the policies of this algorithm; for others ``deploy.distil`` may make one."""
    return get(name).averages


def check_training(trial: RunConfig) -> None:
    """Raise ``UserError`` for settings that only a finished policy can have; see ``Algorithm.check_training``."""
    for own in settings(trial):
        get(trial.algorithm).check_training(trial, own)


def inert(trial: RunConfig) -> "dict[str, Inert]":
    """Settings that make no difference, or hardly any, to all members in this trial."""
    found = [get(trial.algorithm).inert(trial, own) for own in settings(trial)]
    shared = [name for name in found[0] if all(name in own for own in found)]
    # the member for which a setting is nearest to having an effect speaks for all
    return {
        name: min((own[name] for own in found), key=lambda why: (why.effect == "no effect", why.steps))
        for name in shared
    }


def other_ways(trial: RunConfig) -> list[ways.Way]:
    """The ways of acting that a trial names beside its own; none where it evaluates no policy.

    Raises ``UserError`` when its algorithm cannot act so, or a value breaks a rule.
    """
    # an algorithm is only imported for trials that name any
    found = ways.read(trial.acting, get(trial.algorithm), trial.algorithm) if trial.acting else []
    for way in found:
        if way.name in ways.OF_EVALUATION:
            rule = way.rule(trial.evaluation)
            check_acting(trial, rule.candidates, rule.actor)
        else:
            for own in settings(trial):
                own.replaced(**{way.name: way.value})
    return found if trial.evaluation.episodes else []


def check_acting(trial: RunConfig, candidates: int, actor: str) -> None:
    """Raise ``UserError`` where policies of a trial cannot act in that way."""
    algorithm, name = get(trial.algorithm), trial.algorithm
    known = algorithm.actors(settings(trial)[0])
    if actor not in known:
        hint = ""
        if actor == ways.STUDENT.value:
            along = " A student is trained with --student one-step."
            hint = along if teaches(name) else " diffcps distil makes one after training."
        raise UserError(f"actor = {actor!r}: with {name} it must be {' or '.join(map(repr, known))}.{hint}")
    if candidates > 1 and (actor == ways.STUDENT.value or not algorithm.chooses):
        who = "a student" if algorithm.chooses else name
        raise UserError(f"candidates = {candidates}: {who} does not choose among candidates, so it must be 1.")


def profile(trial: RunConfig) -> Changes:
    """What the profile of a trial changes of its task's settings. Raises ``UserError`` when there is no such profile."""
    profiles = get(trial.algorithm).profiles
    if trial.profile not in profiles:
        known = ", ".join(map(repr, profiles))
        raise UserError(f"profile = {trial.profile!r}: with {trial.algorithm} it must be one of {known}.")
    return profiles[trial.profile](trial)


def build(
    trial: RunConfig,
    sizes: tuple[int, int, float],
    device: "torch.device",
    own: slice = slice(None),
) -> "Algorithm[Any]":
    """The algorithm of a trial for some of its members. Raises ``UserError``, see ``settings``.

    ``sizes`` are those of an observation and an action, and the bound of actions.
    """
    from diffcps.algorithms.base import Problem

    problem = Problem(*sizes, steps=trial.steps)
    return get(trial.algorithm)(settings(trial)[own], problem, device)


def metrics(trial: RunConfig) -> tuple[str, ...]:
    """Names of the metrics of a trial's gradient steps. Raises ``UserError``, see ``settings``."""
    import torch

    return build(trial, (1, 1, 1.0), torch.device("cpu")).metrics


def _typed(cls: Any, name: str, values: Mapping[str, Any]) -> Any:
    known = cls.names()
    for key in values:
        if key not in known:
            raise UserError(f"{name} has no setting {key!r}{nearest(key, known) or '.'}")
    return cls.from_dict(values)
