"""The plan of a sweep: its trials, as ``sweep.json`` keeps them."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from diffcps.config import Member, RunConfig, Value
from diffcps.errors import UserError, nearest
from diffcps.files import read_json
from diffcps.runs.criteria import SCORE
from diffcps.text import worded

OBJECTIVE = "objective"
"""The one name under which Ray Tune is told what is maximised: a plan's ``objective``, mean over seeds."""


PruningRule = Literal["divergence", "median", "asha"]
"""How trials are ended early: ``divergence`` looks at the trial alone (``training.divergence``), the others also compare it
with those of its task (``runs.pruning``)."""


@dataclass(frozen=True)
class Axis:
    """A setting in which the trials of a sweep differ."""

    name: str
    """As for ``RunConfig.value``."""
    choices: tuple[Value, ...] = ()
    """Its values; empty: a search draws it from ``low`` to ``high``."""
    low: float | None = None
    high: float | None = None
    log: bool = False
    """Whether it is drawn on a logarithmic scale."""

    def __str__(self) -> str:
        if self.choices:
            return ", ".join(map(worded, self.choices))
        return f"{self.low:g} to {self.high:g}{' (logarithmic)' if self.log else ''}"

    @property
    def values(self) -> tuple[Value, ...]:
        """Every value that it can have, those of a range of whole numbers, too; empty for a range of real numbers."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return tuple(range(self.low, self.high + 1))
        return self.choices


@dataclass(frozen=True)
class Plan:
    """A whole sweep: its name, its trials, and the settings in which they differ."""

    name: str
    preset: str
    trials: tuple[RunConfig, ...]
    """Every trial; for a search one for each task, with the settings that are not searched."""
    axes: tuple[Axis, ...] = ()
    """The settings of which several values were asked for."""
    search: int | None = None
    """Trials for each task in which Optuna chooses the axes; ``None``: ``trials`` are all that there is."""
    objective: str = SCORE
    """What a search maximises: the last score, or a criterion that needs no environment (``runs.criteria``)."""
    prune: PruningRule | None = None
    """The rule by which trials are ended early; ``None``: all run to their end."""

    @property
    def count(self) -> int:
        """Trials of the complete sweep."""
        return len(self.trials) * (self.search or 1)

    @property
    def points(self) -> int | None:
        """Number of combinations of the values of all axes; ``None`` with a range of real numbers."""
        return math.prod(len(axis.values) for axis in self.axes) or None

    def combinations(self) -> Iterable[dict[str, Value]]:
        """Every combination of the values of all axes; none with a range of real numbers."""
        for values in itertools.product(*(axis.values for axis in self.axes)):
            yield {axis.name: value for axis, value in zip(self.axes, values, strict=True)}

    def trial(self, point: Mapping[str, Any]) -> RunConfig:
        """The trial that a point of the searcher describes: by its ``key``, or by a ``task`` and a value for each axis."""
        if "key" in point:
            return next(trial for trial in self.trials if trial.key == point["key"])
        base = next(trial for trial in self.trials if trial.task == point["task"])
        return base.changed({axis.name: point[axis.name] for axis in self.axes})

    def contains(self, other: "Plan") -> bool:
        """Whether it has every trial of another plan, first and in the same order, and perhaps more."""
        if (self.search is None) != (other.search is None) or (self.search or 0) < (other.search or 0):
            return False
        if (self.objective, self.prune) != (other.objective, other.prune):
            return False
        return self.trials[: len(other.trials)] == other.trials and (self.search is None or self.axes == other.axes)

    def merged(self, more: "Plan") -> "Plan":
        """This plan with the trials of another one that it does not have, at the end; of a search, the larger number of trials.

        Raises ``UserError`` for a search and no search, and searches over other axes or of other settings or seeds.
        """
        if (self.search is None) != (more.search is None):
            raise UserError(f"{self.name} is {_kind(self)}, and this is {_kind(more)}: one cannot extend the other.")
        if (self.objective, self.prune) != (more.objective, more.prune):
            raise UserError(
                f"{self.name} goes by {_rules(self)}, and this by {_rules(more)}: give --objective and --prune as there, or "
                "another --name."
            )
        if any(axis.name == "seeds" for axis in (*self.axes, *more.axes)):
            raise UserError(
                "the number of seeds is an axis, and packs of other sizes cannot be added to it: give it another --name."
            )
        known = {trial.key for trial in self.trials}
        fresh = tuple(trial for trial in map(self._further, more.trials) if trial and trial.key not in known)
        for trial in fresh:
            self._check_addition(trial)
        if self.search is not None:
            if self.axes != more.axes:
                raise UserError(
                    f"{self.name} searches {_listed(self)}, and this {_listed(more)}: give it another --name."
                )
            return replace(self, trials=self.trials + fresh, search=max(self.search, more.search or 0))
        return replace(self, trials=self.trials + fresh, axes=_joined(self.axes, more.axes))

    def _further(self, config: RunConfig) -> RunConfig | None:
        """A trial with the seeds alone that this plan does not have of it; ``None`` if it has them all.

        They train as a pack of their own: a member's numbers do not depend on the other members.
        """
        alike = self._alike(config)
        if self.search is not None or not alike:
            return config
        had = {member.seed for own in alike for member in own.members}
        left = tuple(member for member in config.members if member.seed not in had)
        return config.replaced(members=left) if left else None

    def _alike(self, config: RunConfig) -> list[RunConfig]:
        """The trials of this plan that differ from this one in their seeds alone."""
        one = unseeded(config)
        return [] if one is None else [own for own in self.trials if (known := unseeded(own)) and known.key == one.key]

    def _check_addition(self, config: RunConfig) -> None:
        """Raise ``UserError`` where a new trial is evaluated unlike those of its task, or is another base of its search."""
        if self.search is None and self._alike(config):
            return
        for own in self.trials:
            if own.task != config.task:
                continue
            if self.search is not None:
                raise UserError(
                    f"{self.name} searches {config.task} with other settings: give this search another --name."
                )
            how = {name: getattr(own, name) for name in ("evaluation", "acting", "measures", "log_every")}
            otherwise = any(getattr(config, name) != value for name, value in how.items())
            alike = otherwise and config.replaced(members=own.members, **how).key == own.key
            if alike or (own.algorithm != config.algorithm and _protocol(own) != _protocol(config)):
                raise UserError(
                    f"{self.name} evaluates {own.algorithm} on {config.task} {_protocol(own)}, and this {config.algorithm} "
                    f"{_protocol(config)}: what is compared has one protocol. Give --evaluate-every, --episodes, --acting and "
                    "--measures as there, or another --name."
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "name": self.name,
            "preset": self.preset,
            "trials": [trial.to_dict() for trial in self.trials],
            "axes": [asdict(axis) for axis in self.axes],
            "search": self.search,
            "objective": self.objective,
            "prune": self.prune,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Plan":
        """The inverse of ``to_dict``."""
        axes = tuple(Axis(**{**axis, "choices": tuple(axis["choices"])}) for axis in values["axes"])
        trials = tuple(RunConfig.from_dict(trial) for trial in values["trials"])
        rules = {name: values[name] for name in ("search", "objective", "prune")}
        return cls(values["name"], values["preset"], trials=trials, axes=axes, **rules)


def unseeded(config: RunConfig) -> RunConfig | None:
    """The trial with seed 0 alone: the same for trials that differ in their seeds; ``None`` if its members differ in more."""
    first, *others = (member.settings for member in config.members)
    return None if any(other != first for other in others) else config.replaced(members=(Member(0, first),))


def _protocol(config: RunConfig) -> str:
    """How policies of a trial are evaluated."""
    own = config.evaluation
    last = "" if own.final_episodes is None else f", {own.final_episodes} at the end"
    acting = f", also by {', '.join(config.acting)}" if config.acting else ""
    measures = f", measuring {', '.join(config.measures)}" if config.measures else ""
    return f"every {own.every} steps, {own.episodes} episodes{last}{acting}{measures}"


def _rules(plan: Plan) -> str:
    return f"{plan.objective}, {f'pruned by {plan.prune}' if plan.prune else 'not pruned'}"


def _kind(plan: Plan) -> str:
    return "a grid of trials" if plan.search is None else "a search"


def _listed(plan: Plan) -> str:
    return ", ".join(f"{axis.name} in {axis}" for axis in plan.axes)


def _joined(first: Sequence[Axis], second: Sequence[Axis]) -> tuple[Axis, ...]:
    """The axes of two grids, each with the values of both."""
    names = dict.fromkeys(axis.name for axis in (*first, *second))
    values = {
        name: dict.fromkeys(value for axis in (*first, *second) if axis.name == name for value in axis.choices)
        for name in names
    }
    return tuple(Axis(name, tuple(found)) for name, found in values.items())


def load(folder: Path) -> Plan:
    """The plan in a sweep's folder. Raises ``UserError`` when there is none, or one that makes no sense."""
    file = folder / "sweep.json"
    if not file.exists():
        known = (file.parent.name for file in folder.parent.glob("*/sweep.json"))
        raise no_sweep(folder.name, folder.parent, known)
    return parsed(read_json(file), file)


def no_sweep(name: str, place: object, known: Iterable[str]) -> UserError:
    """What is said where a results folder has no sweep of this name; ``known`` are the names of those that it has."""
    names = sorted(known)
    holds = f"It holds: {', '.join(names)}." if names else "It holds no sweep."
    return UserError(f"no sweep is called {name!r} in {place}{nearest(name, names) or '.'} {holds}")


def parsed(values: Any, file: Path) -> Plan:
    """The plan in the content of ``file``, a ``sweep.json``. Raises ``UserError`` when it makes no sense."""
    try:
        return Plan.from_dict(values)
    except KeyError as error:
        raise UserError(f"{file} does not describe a sweep of this version: it has no {error}.") from error
    except (AttributeError, TypeError, UserError) as error:
        raise UserError(f"{file} does not describe a sweep: {error}") from error
