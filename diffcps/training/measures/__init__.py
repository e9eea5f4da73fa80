"""Measures of policies beside their scores: where actions are, how likely they make the data, how they act, what they are worth.

``RunConfig.measures`` names them, and ``subject.Measurer`` takes them at each evaluation. An entry in ``MEASURES`` is all that
a new measure needs: the flag ``--measures``, ``measures.csv``, MLflow and the report follow from it. Looking one up does not
import what taking it needs: a sweep refuses a misfit before it starts anything.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffcps import algorithms
from diffcps.config import Actor, RunConfig
from diffcps.errors import UserError, nearest
from diffcps.tasks.bandits import Bandit, bandit
from diffcps.tasks.registry import Task, task_of

if TYPE_CHECKING:
    from diffcps.training.measures.subject import Subject

PATHS = 4, 16, 64, 256
"""Paths K through the chain of the bounds ``iwae_K``."""
CANDIDATES = 50
"""N, of which best-of-N chooses."""
TAUGHT: tuple[Actor, ...] = "average", "student"
"""Who is measured beside a policy with a student: the averaged chain, which it learns from, and the student."""


def _no_numbers(subject: "Subject") -> Mapping[str, float]:
    """What a measure takes that is a picture alone."""
    return {}


@dataclass(frozen=True)
class Measure:
    """What can be measured of a policy besides its score."""

    says: str
    """What it tells, in a sentence."""
    columns: Callable[[RunConfig, Task], tuple[str, ...]] = lambda config, task: ()
    """Names of the numbers that it gives for a trial that it fits; no two measures share one."""
    take: Callable[["Subject"], Mapping[str, float]] = _no_numbers
    """Measures one policy: the value of each column."""
    together: Callable[[Sequence["Subject"]], Sequence[Mapping[str, float]]] | None = None
    """Measures several policies of a trial as one, where that is faster; else ``take`` measures one after the other."""
    misfit: Callable[[RunConfig, Task], str | None] = lambda config, task: None
    """Why it does not fit a trial; ``None`` where it does."""
    details: str = ""
    """Pattern of the columns that a report leaves to ``measures.csv``."""
    rollouts: Callable[[RunConfig], Sequence[tuple[Actor, int]]] = lambda config: ()
    """Who acts, among how many candidates, in the episodes that it rolls out at every evaluation."""
    timed: bool = True
    """Whether a dry run counts its time; else it only says that the time is not counted."""
    along: bool = True
    """Whether it changes as the policy learns, so that a report draws it along training."""
    leaves: Callable[["Subject"], Mapping[str, NDArray[np.float64]]] | None = None
    """Something to look at, column -> ``[n]``, which goes to ``samples.csv`` at the end of the trial; ``None`` for nothing."""

    @property
    def only_picture(self) -> bool:
        """Whether it gives no numbers."""
        return self.take is _no_numbers and self.together is None


def check(config: RunConfig) -> None:
    """Raise ``UserError`` when a measure of a trial does not exist, is named twice, or does not fit."""
    task = task_of(config)
    for name in config.measures:
        if name not in MEASURES:
            near = nearest(name, MEASURES) or "."
            raise UserError(f"no measure is called {name!r}{near} Measures: {', '.join(MEASURES)}.")
        if reason := MEASURES[name].misfit(config, task):
            fitting = [other for other, measure in MEASURES.items() if not measure.misfit(config, task)]
            raise UserError(
                f"measure {name!r} does not fit {task.name}: {reason} Those that fit: {', '.join(fitting)}."
            )
    if len(set(config.measures)) != len(config.measures):
        raise UserError(f"measures {', '.join(config.measures)}: name each once.")


def columns(config: RunConfig) -> tuple[str, ...]:
    """Columns of ``measures.csv`` after step, member and seed: of the measures, then of other ways to act."""
    task = task_of(config)
    measured = [column for name in config.measures for column in MEASURES[name].columns(config, task)]
    return (*measured, *(way.column for way in algorithms.other_ways(config)))


def _bandit(task: Task) -> Bandit:
    assert task.bandit is not None
    return bandit(task.bandit)


def _no_bandit(config: RunConfig, task: Task) -> str | None:
    return None if task.bandit is not None else "the behaviour is known exactly on bandits only (bandit-corners, …)."


def _no_maze(config: RunConfig, task: Task) -> str | None:
    return None if task.maze else "it is no maze that this project simulates (pointmaze-umaze, antmaze-…)."


def _no_plane(config: RunConfig, task: Task) -> str | None:
    if reason := _no_bandit(config, task) or _no_class(config, task):
        return reason
    return None if task.action_size <= 2 else f"a grid has one or two dimensions, its actions {task.action_size}."


def _no_class(config: RunConfig, task: Task) -> str | None:
    known = algorithms.get(config.algorithm).has_density
    return None if known else f"{config.algorithm} has no policy of a class that its distribution is computed for."


def _no_density(config: RunConfig, task: Task) -> str | None:
    if reason := _no_class(config, task):
        return reason
    if config.evaluation.actor == "student":
        return "a student acts, and how likely it makes single actions is not computed."
    return "a deterministic policy has no density." if config.value("policy") == "deterministic" else None


def _density(config: RunConfig, task: Task) -> tuple[str, ...]:
    names = ["kl", "kl_reverse", "off_support", "expected_value"]
    names += [f"std_{j}" for j in range(task.action_size)]
    if (modes := _bandit(task).modes) is not None:
        names += [f"mode_{m}" for m in range(len(modes))] + ["mode_recall"]
    return (*names, *(f"{actor}_kl" for actor in TAUGHT if beside_student(config)))


def _samples(config: RunConfig, task: Task) -> tuple[str, ...]:
    recall = () if _bandit(task).modes is None else ("sample_recall",)
    best = ("bestof_value", "bestof_off_support") if chooses(config) else ()
    own = ("sliced_wasserstein", *recall, "sample_off_support", "sample_value", *best)
    if not beside_student(config):
        return own
    names = "off_support", "value", *(("recall",) if recall else ())
    return (*own, *(f"{actor}_{name}" for actor in TAUGHT for name in names))


def chooses(config: RunConfig) -> bool:
    """Whether the policy that acts can choose among several actions; a student proposes one."""
    return algorithms.get(config.algorithm).chooses and config.evaluation.actor != "student"


def beside_student(config: RunConfig) -> bool:
    """Whether a trial trains a student, and another policy acts in its evaluations."""
    return config.value("student") not in (None, "none") and config.evaluation.actor != "student"


def has_paths(config: RunConfig) -> bool:
    """Whether the policy is a chain every step of which has a density, the last too."""
    return config.value("policy") == "diffusion" and config.value("covariance") != "posterior"


def _likelihood(config: RunConfig, task: Task) -> tuple[str, ...]:
    excess = ("cross_entropy_excess", "cross_entropy_excess_error") if task.bandit is not None else ()
    if config.value("policy") != "diffusion":
        return ("cross_entropy", "cross_entropy_error", *excess)
    loss = ("loss", *(f"loss_step_{t}" for t in range(config.value("diffusion_steps"))))
    if not has_paths(config):
        return loss
    bounds = tuple(f"iwae_{paths}" for paths in PATHS)
    return ("cross_entropy", "cross_entropy_error", *excess, "elbo", *bounds, "gap", *loss)


def _no_episodes(config: RunConfig, task: Task) -> str | None:
    return None if config.evaluation.episodes else "its policies are not evaluated (0 episodes)."


def _acting(config: RunConfig, task: Task) -> tuple[str, ...]:
    return tuple(f"score_{actor}_{count}" for actor, count in ways_of_acting(config))


def ways_of_acting(config: RunConfig) -> list[tuple[Actor, int]]:
    """Every policy that can act, by single actions and, where the algorithm can choose, by the best of many."""
    algorithm = algorithms.get(config.algorithm)
    many = (1, CANDIDATES) if algorithm.chooses else (1,)
    actors = algorithm.actors(algorithms.settings(config)[0])
    return [(actor, count) for actor in actors for count in ((1,) if actor == "student" else many)]


def ways_of_timing(config: RunConfig) -> list[tuple[Actor, int]]:
    """What acts, and among how many: the policy by single actions and as in evaluations, and its student."""
    own = config.evaluation
    alone: list[tuple[Actor, int]] = [(own.actor, 1), (own.actor, own.candidates)]
    student: list[tuple[Actor, int]] = [("student", 1)] if beside_student(config) else []
    return list(dict.fromkeys([*alone, *student]))


def _latency(config: RunConfig, task: Task) -> tuple[str, ...]:
    return tuple(f"us_{actor}_{count}" for actor, count in ways_of_timing(config))


def _fqe(config: RunConfig, task: Task) -> tuple[str, ...]:
    return ("fqe_value", "fqe_error") if config.data.hold_out else ("fqe_value",)


def _no_critic(config: RunConfig, task: Task) -> str | None:
    if algorithms.get(config.algorithm).judge is not None:
        return None
    return f"policies of {config.algorithm} keep no critic of the values of their own actions."


def _late(module: str, function: str = "take") -> Callable[..., Any]:
    """A function of a module of this package, which is imported when it is first called: torch takes a second."""

    def call(*arguments: object) -> Any:
        return getattr(importlib.import_module(f"{__package__}.{module}"), function)(*arguments)

    return call


MEASURES = {
    "density": Measure(
        says="The policy's distribution on a grid, exactly: KL both ways, modes, mass off the support, expected value.",
        columns=_density,
        take=_late("density"),
        misfit=_no_plane,
        details=r"(std|mode)_\d+",
    ),
    "samples": Measure(
        says="The policy's own actions against the behaviour's, and the best of 50; also leaves them in samples.csv.",
        columns=_samples,
        take=_late("samples"),
        misfit=_no_bandit,
        leaves=_late("samples", "to_look_at"),
    ),
    "actions": Measure(
        says="The policy's own actions beside the behaviour's, as a picture; leaves them in samples.csv.",
        misfit=_no_bandit,
        leaves=_late("samples", "to_look_at"),
    ),
    "paths": Measure(
        says="Where the policy goes in a maze, as a picture over paths of the data; leaves them in samples.csv.",
        misfit=_no_maze,
        leaves=_late("paths", "to_look_at"),
    ),
    "likelihood": Measure(
        says="How likely the policy makes the data, in nats: ELBO, IWAE, the gap between them, and the behaviour loss.",
        columns=_likelihood,
        take=_late("likelihood"),
        misfit=_no_density,
        details=r"loss_step_\d+|iwae_\d+|.*_error",
    ),
    "acting": Measure(
        says="The score of the online policy and of its average, by single actions and by the best of 50.",
        columns=_acting,
        take=_late("acting"),
        rollouts=ways_of_acting,
        misfit=_no_episodes,
    ),
    "fqe": Measure(
        says="What the policy is worth by its data alone: fitted Q evaluation at first states, and its error on held-out data.",
        columns=_fqe,
        together=_late("offline", "fqe"),
        timed=False,
    ),
    "critic": Measure(
        says="What the policy's own critic says of it at first states, and the critic's error on held-out data.",
        columns=lambda config, task: ("critic_value", "critic_error"),
        take=_late("offline", "critic"),
        misfit=_no_critic,
    ),
    "latency": Measure(
        says="Microseconds that an action takes, one state at a time: by a single one, as in evaluations, by the student.",
        columns=_latency,
        along=False,
        take=_late("latency"),
    ),
}
"""Every measure by name."""
