"""Checks of a data set: its contents, its completeness, its origin, and the physics that it was recorded with."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from diffcps import envs
from diffcps.config import Physics
from diffcps.data.checking import layouts, parity, states, statistics
from diffcps.data.checking.layouts import Visits
from diffcps.data.checking.parity import ParityReport
from diffcps.data.checking.recording import Recording
from diffcps.data.checking.statistics import Actions, Columns, Dimension, Ends, Trajectories
from diffcps.data.library import DataSet
from diffcps.data.provenance import TOLERANCE
from diffcps.envs.simulations import Floats, Layout, Simulated
from diffcps.errors import UserError
from diffcps.tasks.registry import Task

_BY_CHANCE = 0.1
"""Share of trajectories that may start where another one ended."""


@dataclass(frozen=True)
class Check:
    """The results of a check. A measurement is ``None`` (or empty) where the data do not allow it."""

    task: str
    source: str
    path: str
    refusal: str | None = None
    """Why a learner cannot learn from these data; ``None`` when it can."""
    remarks: tuple[str, ...] = ()
    """Sentences about anything unusual."""
    checksum: str | None = None
    provenance: str | None = None
    provenance_note: str | None = None
    arrays: dict[str, str] = field(default_factory=dict)
    """Type and shape of everything in the data, by name."""
    rows: int | None = None
    transitions: int | None = None
    """Transitions that a learner gets."""
    terminals: int | None = None
    """Terminal ones among them."""
    not_finite: dict[str, int] = field(default_factory=dict)
    """Rows with NaN or infinite values, by array."""
    trajectories: Trajectories | None = None
    ends: Ends | None = None
    observations: Columns | None = None
    actions: Actions | None = None
    duplicates: int | None = None
    """Rows with the same observation and action as an earlier row."""
    published: tuple[Dimension, ...] = ()
    """Observation dimensions beside D4RL's, the worst first."""
    visits: Visits | None = None
    parity: ParityReport | None = None
    no_parity: str | None = None
    """Why there is no replay."""
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them: numbers that are not finite become ``None``."""
        found: dict[str, Any] = _plain(asdict(self))
        return found


@dataclass(frozen=True, eq=False)
class Examined:
    """A check with the arrays behind it, for pictures."""

    check: Check
    task: Task
    data: Recording | None
    maze: Layout | None
    errors: dict[Physics, Floats]
    """Largest one-step errors of the observations ``[rows]``, by physics."""


def examine(found: DataSet, physics: Sequence[Physics], replayed: int) -> Examined:
    """Check a data set. At most ``replayed`` of its rows are replayed under each physics (0: none)."""
    began = time.perf_counter()
    task = found.task
    check = Check(task.name, found.source.name, str(found.path))
    try:
        transitions = found.source.load(task, found.path)
        said = {name: getattr(transitions.info, name) for name in ("checksum", "provenance", "provenance_note")}
        check = replace(check, transitions=len(transitions), terminals=int(transitions.terminals.sum()), **said)
        del transitions
    except UserError as error:
        check = replace(check, refusal=str(error))
    data: Recording | None = None
    try:
        data, arrays = found.source.record(task, found.path)
        check = replace(check, arrays=arrays)
    except UserError as error:
        check = replace(check, refusal=check.refusal or str(error))
    rules = _rules(task)
    errors: dict[Physics, Floats] = {}
    if data is not None and len(data):
        check, errors = _measured(check, task, data=data, rules=rules, physics=physics, replayed=replayed)
    check = replace(check, seconds=time.perf_counter() - began)
    remarks = _remarks(check, task, made=found.source.makes)
    maze = None if rules is None else rules.maze
    return Examined(replace(check, remarks=tuple(remarks)), task, data=data, maze=maze, errors=errors)


def _measured(
    check: Check,
    task: Task,
    data: Recording,
    rules: Simulated | None,
    physics: Sequence[Physics],
    replayed: int,
) -> tuple[Check, dict[Physics, Floats]]:
    own = data.own
    observations = statistics.columns(own)
    place = None if rules is None else states.trunk(rules, data)
    visits = None if rules is None or rules.maze is None else layouts.visits(rules.maze, data)
    check = replace(
        check,
        rows=len(data),
        not_finite=statistics.not_finite((("observations", own), ("actions", data.actions), ("rewards", data.rewards))),
        trajectories=statistics.trajectories(task, data),
        ends=statistics.ends(data, place, 1.0 if rules is None else rules.dt),
        observations=observations,
        actions=statistics.actions(task, data.actions),
        duplicates=statistics.duplicates(own, data.actions),
        published=statistics.published(task, observations),
        visits=visits,
    )
    if rules is None:
        return replace(check, no_parity=f"{task.name} is not stepped by a simulator of this project."), {}
    if replayed == 0:
        return replace(check, no_parity="Not asked for."), {}
    own_physics = task.environment.physics
    replayed_under = tuple(each for each in physics if each in own_physics) or own_physics
    try:
        report, errors = parity.compare(
            task, data, replayed_under, replayed, goal=None if visits is None else visits.goal
        )
    except states.NoStatesError as error:
        return replace(check, no_parity=str(error)), {}
    return replace(check, parity=report), errors


def _rules(task: Task) -> Simulated | None:
    """The task's environment where MuJoCo steps it."""
    if not task.environment.physics:
        return None
    rules: Simulated = envs.make(task, task.physics).unwrapped  # type: ignore[assignment]
    return rules


def _remarks(check: Check, task: Task, made: bool) -> list[str]:
    """What is wrong with the data or may surprise; ``made`` says that this project made them."""
    said = [
        f"Rows of '{name}' with NaN or infinite values: {count:,}. They are left out of what is measured here."
        for name, count in check.not_finite.items()
    ]
    if (ends := check.ends) is not None:
        said += _about_ends(ends)
        if check.terminals is not None and (lost := ends.terminals - check.terminals) > 0:
            said.append(
                f"Terminals that no learner sees: {lost:,} of {ends.terminals:,}. As in D4RL, a row that is also a time-out, "
                "and the last row, are no transitions, because no next observation follows them."
            )
    if check.actions is not None and check.actions.rows_outside:
        said.append(
            f"Rows with actions beyond ±{task.max_action:g}: {check.actions.rows_outside:,}, up to {check.actions.largest:g}."
        )
    if check.duplicates and task.bandit is None:
        assert check.rows is not None
        said.append(
            f"Rows that repeat the observation and the action of an earlier row to the bit: {check.duplicates:,} "
            f"({check.duplicates / check.rows:.1%}). Rows were copied."
        )
    if check.observations is not None and check.observations.constant and task.bandit is None:
        said.append(f"Observation dimension {_listed(check.observations.constant)} never changes.")
    if check.actions is not None and check.actions.constant:
        said.append(f"Action dimension {_listed(check.actions.constant)} never changes.")
    if (found := check.trajectories) is not None:
        if found.complete == 0:
            said.append("No trajectory is complete, so there are no returns.")
        if found.over_limit:
            said.append(
                f"Trajectories longer than the {task.episode_limit} steps that an evaluation has: {found.over_limit:,}."
            )
    if check.published and (worst := check.published[0]) and max(worst.mean_off, worst.std_off) > TOLERANCE:
        off = sum(max(d.mean_off, d.std_off) > TOLERANCE for d in check.published)
        said.append(f"{off} of {len(check.published)} observation dimensions are not distributed as D4RL's.")
    if check.visits is not None:
        said += _about_maze(check.visits, made)
    if (report := check.parity) is not None:
        said += _about_parity(report, task)
    return said


def _about_ends(ends: Ends) -> list[str]:
    said = []
    if ends.jumps_unflagged:
        said.append(
            f"Rows followed by an observation from elsewhere although no flag ends a trajectory there: "
            f"{ends.jumps_unflagged:,}. A learner takes them for real transitions. Flags are out of step with resets, as "
            f"in D4RL's AntMaze v0, or rows are missing or out of order."
        )
    if ends.ends_without_jump and ends.jumps is not None and ends.jumps_unflagged is not None:
        # a trajectory may by chance start where the one before ended; few do
        flagged = ends.jumps - ends.jumps_unflagged + ends.ends_without_jump
        if ends.jumps_unflagged or ends.ends_without_jump > _BY_CHANCE * flagged:
            said.append(
                f"Rows flagged as an end although the motion continues: {ends.ends_without_jump:,} of {flagged:,}."
            )
    if ends.stored_next_wrong:
        said.append(
            f"Rows with a 'next_observations' that is not the next row: {ends.stored_next_wrong:,}. A learner gets the next row, "
            f"as D4RL does."
        )
    if not ends.timeouts_flagged:
        said.append("The data do not say where time-outs are: they were found by counting to the episode limit.")
    if ends.timeouts_elsewhere:
        said.append(
            f"{ends.timeouts_elsewhere:,} of {ends.timeouts:,} time-outs end a trajectory of another length than the usual "
            f"{ends.timeout_length}."
        )
    return said


def _about_maze(visits: Visits, made: bool) -> list[str]:
    said = []
    if visits.in_walls:
        said.append(f"Rows in a wall or outside of the maze: {visits.in_walls:,}. Are they another maze's data?")
    if visits.cells < visits.free_cells:
        said.append(f"{visits.free_cells - visits.cells} of {visits.free_cells} free cells were never entered.")
    if visits.goal is None and visits.reached and not made:
        said.append("No single goal explains which rows have a reward.")
    return said


def _about_parity(report: ParityReport, task: Task) -> list[str]:
    said = []
    if report.came_from is None:
        said.append(report.verdict)
    elif len(report.results) > 1 and report.came_from != task.physics:
        own = next(result for result in report.results if result.physics == report.came_from)
        these = "the bulk of these data was" if own.altered else "these data were"
        said.append(
            f"{task.name} is evaluated under {task.physics} physics, but {these} recorded under "
            f"{report.came_from} physics: use --physics {report.came_from} for what is learned from them."
        )
    for result in report.results:
        if result.fits and result.rewards_off:
            assert result.reward is not None
            why = (
                "of altered rows, altered themselves, or computed otherwise"
                if result.altered
                else "though the motion is: rewards were altered, or computed otherwise"
            )
            said.append(
                f"{result.rewards_off:,} of {result.rows:,} replayed rewards are not what the simulator gives (off by up to "
                f"{result.reward.maximum:.3g}), {why}."
            )
        if result.fits and result.unexplained:
            examined = "all" if len(result.edges) == result.beyond else f"the {len(result.edges)} that were"
            altered = " Rows were altered, or are out of order." if result.altered else ""
            said.append(
                f"{result.beyond:,} of {result.rows:,} replayed rows ({result.beyond / result.rows:.1%}) miss the recorded step "
                f"under {result.physics} physics; of {examined} examined, {result.unexplained:,} miss it by more than their "
                f"rounding explains.{altered}"
            )
    return said


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
