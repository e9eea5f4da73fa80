"""Dynamics parity: is today's simulator the one a data set came from?

The evaluation environment is set to the recorded state of a row, the recorded action is applied, and the result is
compared with the recorded observation and reward. Rows are independent, so an error does not grow along a trajectory.
Each row starts without the solver's warm start. With the warm start of the row before, float32 recordings give the same
errors, and the largest errors of float64 recordings fall from 1e-7 to 1e-13.

States recorded in float32 are rounded. Where a foot is about to touch the ground, the rounding can decide whether it
does, and the row shows a large error although the simulators are the same. Such a row is recognised by stepping from many
states within half a unit in the last place of the recorded one: the recorded outcome is then among the outcomes.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from diffcps import envs
from diffcps.config import Physics
from diffcps.data.checking.layouts import Goal
from diffcps.data.checking.recording import Numbers, Recording
from diffcps.data.checking.states import States, dimensions, of
from diffcps.envs.simulations import Floats, Moves, Simulations, processors
from diffcps.tasks.registry import Task

FITS = 1e-5
"""Median error of an observation, up to which a simulator is the one that data came from. Float32 recordings of today's
MuJoCo have 2e-7 to 7e-7 under their own physics and 7e-3 to 1 under the other."""
CLOSER = 5.0
"""A physics with a median error this many times smaller than the other's is called the closer one."""
UNRELATED = 0.3
"""Errors beyond this part of a step's own change say that rows do not follow one another at all."""
EDGE_POSITION, EDGE_VELOCITY = 1e-5, 1e-3
"""Under the physics that fits, a row with a larger error in a position (metres, radians) or a velocity is examined."""
REWARD_TOLERANCE = 1e-3
"""Rewards that differ by more are called different."""
MOST_MISSED = 1e-3
"""Share of rows with such an error that rounding does not explain, beyond which data are called altered in part."""

_BATCH = 1024
_DRAWS = 1024
_WORST_EDGES, _SPREAD_EDGES = 32, 32
"""Rows with such an error that are examined: the worst, and as many spread evenly over the others, by their error."""
_HUGE = 1e30
"""Stands for an error without bounds."""


@dataclass(frozen=True)
class Percentiles:
    """Of errors over rows."""

    p50: float
    p90: float
    p99: float
    p99_9: float
    maximum: float

    @classmethod
    def of(cls, errors: Floats) -> "Percentiles":
        """Of errors ``[n]``, n > 0."""
        return cls(*np.percentile(errors, [50, 90, 99, 99.9, 100]).tolist())


@dataclass(frozen=True)
class Edge:
    """A row with an outcome that depends on how its state was rounded."""

    row: int
    position: float
    """Largest error of a position, replayed from the state as recorded."""
    velocity: float
    """Largest error of a velocity."""
    closest_position: float
    """Largest error of a position, from the state within the rounding that gives the outcome nearest to the recorded one."""
    closest_velocity: float
    share: float
    """Of the states within the rounding, how many give the recorded outcome within the limits."""

    @property
    def explained(self) -> bool:
        """Whether the recorded outcome is within the limits of one that the rounding allows."""
        return self.closest_position <= EDGE_POSITION and self.closest_velocity <= EDGE_VELOCITY


@dataclass(frozen=True)
class Parity:
    """One-step errors under one physics."""

    physics: Physics
    rows: int
    observation: Percentiles
    """Of the largest absolute error among all dimensions."""
    position: Percentiles
    """The same among positions and angles."""
    velocity: Percentiles
    """The same among velocities."""
    reward: Percentiles | None
    """``None`` when the rewards' goal is not known."""
    rewards_off: int | None
    """Rows with a reward that is off by more than ``REWARD_TOLERANCE``."""
    beyond: int
    """Rows beyond ``EDGE_POSITION`` or ``EDGE_VELOCITY``."""
    edges: tuple[Edge, ...]
    """Those of them looked at closely, the worst first; empty unless this physics fits."""
    unexplained: int
    """Rows among ``edges`` with an error that the rounding of their state does not explain."""
    missed: int
    """The same among all rows ``beyond``: estimated where only a part was looked at; 0 unless this physics fits."""
    position_beyond_rounding: float
    """Largest error of a position when each edge counts with its closest outcome."""
    seconds: float

    @property
    def fits(self) -> bool:
        """Whether the data were recorded under this physics on a simulator that computes as today's."""
        return self.observation.p50 <= FITS

    @property
    def altered(self) -> bool:
        """Whether this holds for the bulk of the rows only."""
        return self.fits and self.missed > MOST_MISSED * self.rows


@dataclass(frozen=True)
class ParityReport:
    """The replay of one data set under each physics."""

    states: str
    """Where the simulator's states were taken from."""
    rows: int
    """Rows replayed, spread evenly over the data."""
    usable: int
    """Rows that could have been."""
    step: float
    """Median over the replayed rows of the largest change of an observation in one step."""
    results: tuple[Parity, ...]
    came_from: Physics | None
    """The physics that fits, if one does."""
    verdict: str
    """The same as a sentence for a person."""


def compare(
    task: Task, data: Recording, physics: Sequence[Physics], most: int, goal: Goal | None
) -> tuple[ParityReport, dict[Physics, Floats]]:
    """Replay at most ``most`` rows of ``data`` under each physics.

    ``goal`` is the one that explains a maze's rewards. Returns the report, and the errors ``[rows]`` of the observations by
    physics. Raises ``NoStatesError``, with the reason, when there is nothing to replay.
    """
    first = envs.simulations(task, physics[0], 1)
    found = of(first.rules, data)
    first.close()
    candidates = np.flatnonzero(found.usable)
    rows = _spread(candidates, most)
    change = np.abs(data.after(rows).astype(np.float64) - data.own[rows]).max(axis=1)
    results: list[Parity] = []
    errors: dict[Physics, Floats] = {}
    for each in physics:
        result, errors[each] = _replay(task, each, data=data, found=found, rows=rows, goal=goal)
        results.append(result)
    step = float(np.median(change))
    fitting = [result for result in results if result.fits]
    report = ParityReport(
        states=found.source,
        rows=len(rows),
        usable=len(candidates),
        step=step,
        results=tuple(results),
        came_from=min(fitting, key=lambda r: r.observation.p50).physics if fitting else None,
        verdict=_verdict(results, step),
    )
    return report, errors


def _replay(
    task: Task, physics: Physics, data: Recording, found: States, rows: NDArray[np.int64], goal: Goal | None
) -> tuple[Parity, Floats]:
    start = time.perf_counter()
    stepper = _Stepper(task, physics, goal, data.rewards)
    observations, rewards = stepper.step(found.qpos[rows], found.qvel[rows], data.actions[rows])
    error = _off(observations, data.after(rows))
    places, speeds = dimensions(stepper.rules, task.observation_size)
    position, velocity, largest = error[:, places].max(axis=1), error[:, speeds].max(axis=1), error.max(axis=1)
    reward = _off(rewards, data.rewards[rows])
    reward = reward[np.isfinite(data.rewards[rows])] if stepper.knows_rewards else reward[:0]
    beyond = np.flatnonzero((position > EDGE_POSITION) | (velocity > EDGE_VELOCITY))
    edges: list[Edge] = []
    missed = 0
    resolved = position.copy()
    if np.median(largest) <= FITS:
        worst = beyond[np.argsort(-np.maximum(position / EDGE_POSITION, velocity / EDGE_VELOCITY)[beyond])]
        others = worst[_WORST_EDGES:]
        spread = _spread(others, _SPREAD_EDGES)
        for part, stands_for in ((worst[:_WORST_EDGES], 1.0), (spread, len(others) / max(len(spread), 1))):
            looked_at = [
                stepper.edge(int(rows[i]), found, data=data, position=float(position[i]), velocity=float(velocity[i]))
                for i in part
            ]
            resolved[part] = np.minimum(position[part], [edge.closest_position for edge in looked_at])
            missed += round(stands_for * sum(not edge.explained for edge in looked_at))
            edges += looked_at
    stepper.close()
    result = Parity(
        physics=physics,
        rows=len(rows),
        observation=Percentiles.of(largest),
        position=Percentiles.of(position),
        velocity=Percentiles.of(velocity),
        reward=Percentiles.of(reward) if len(reward) else None,
        rewards_off=int((reward > REWARD_TOLERANCE).sum()) if len(reward) else None,
        beyond=len(beyond),
        edges=tuple(edges),
        unexplained=sum(not edge.explained for edge in edges),
        missed=missed,
        position_beyond_rounding=float(resolved.max()),
        seconds=time.perf_counter() - start,
    )
    return result, largest


class _Stepper:
    """Steps of the evaluation environment from states of the caller's choice."""

    def __init__(self, task: Task, physics: Physics, goal: Goal | None, rewards: Numbers) -> None:
        self._simulations: Simulations = envs.simulations(task, physics, _BATCH, processors())
        self.rules = self._simulations.rules
        self._batch = self._simulations.batch
        # what a simulation is before its first step: time 0, no warm start
        self._fresh = self._batch.state[0].copy()
        self._qpos, self._qvel, self._ctrl = (self._batch.bind(name) for name in ("qpos", "qvel", "ctrl"))
        rewarded = bool((rewards > 0).any())
        has_goal = self.rules.goal is not None
        self.knows_rewards = not has_goal or not rewarded or (goal is not None and goal.observation == "next")
        # without any reward the goal was never reached: any place that is nowhere will do
        self._goal = np.array([goal.x, goal.y]) if goal is not None else np.full(2, np.inf)

    def step(self, qpos: Numbers, qvel: Numbers, actions: Numbers) -> tuple[Floats, Floats]:
        """Observations ``[n, o]`` and rewards ``[n]`` after one control step from states and actions ``[n, ...]``."""
        parts = [
            self._step(qpos[i : i + _BATCH], qvel[i : i + _BATCH], actions[i : i + _BATCH])
            for i in range(0, len(qpos), _BATCH)
        ]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def _step(self, qpos: Numbers, qvel: Numbers, actions: Numbers) -> tuple[Floats, Floats]:
        n = len(qpos)
        active = np.arange(_BATCH) < n
        self._batch.state[:] = self._fresh
        self._qpos[:n], self._qvel[:n] = qpos, qvel
        before = self._qpos[:n].copy()
        space = self.rules.action_space
        clipped = np.clip(actions, space.low, space.high)  # type: ignore[attr-defined]
        self.rules.prepare_many(self._batch, active)
        self._ctrl[:n] = self.rules.control_many(clipped)
        with _quiet():
            self._batch.step(active, nstep=self.rules.frame_skip)
        after, speed = self._qpos[:n].copy(), self._qvel[:n].copy()
        goals = np.broadcast_to(self._goal, (n, 2))
        with np.errstate(over="ignore", invalid="ignore"):
            rewards, _ = self.rules.reward_many(Moves(before, after, qvel=speed, actions=clipped, goals=goals))
            return self.rules.observe_many(after, speed), rewards

    def edge(self, row: int, found: States, data: Recording, position: float, velocity: float) -> Edge:
        """Whether a row's error, of this size, comes from the rounding of its state."""
        generator = np.random.default_rng(row)
        qpos, qvel = (
            values[row].astype(np.float64)
            + np.spacing(np.abs(values[row])) * generator.uniform(-0.5, 0.5, (_DRAWS, values.shape[1]))
            for values in (found.qpos, found.qvel)
        )
        observations, _ = self.step(qpos, qvel, np.repeat(data.actions[[row]], _DRAWS, axis=0))
        error = _off(observations, data.after(np.array([row])))
        places, speeds = dimensions(self.rules, error.shape[1])
        places_off, speeds_off = error[:, places].max(axis=1), error[:, speeds].max(axis=1)
        relative = np.maximum(places_off / EDGE_POSITION, speeds_off / EDGE_VELOCITY)
        closest = int(np.argmin(relative))
        return Edge(
            row=row,
            position=position,
            velocity=velocity,
            closest_position=float(places_off[closest]),
            closest_velocity=float(speeds_off[closest]),
            share=float((relative <= 1.0).mean()),
        )

    def close(self) -> None:
        """Free the environments."""
        self._simulations.close()


def _verdict(results: Sequence[Parity], step: float) -> str:
    ordered = sorted(results, key=lambda result: result.observation.p50)
    best, median = ordered[0], ordered[0].observation.p50
    others = "".join(f"; {other.physics} physics: {other.observation.p50:.1e}" for other in ordered[1:])
    measured = f"median one-step error {median:.1e}{others}; a step itself changes {step:.2g}"
    if best.altered:
        about = "about " if len(best.edges) < best.beyond else ""
        return (
            f"The bulk was recorded under {best.physics} physics on a simulator that computes as this one does ({measured}), "
            f"but {about}{best.missed:,} of {best.rows:,} rows ({best.missed / best.rows:.1%}) were not: altered or "
            f"mis-ordered rows."
        )
    if best.fits:
        return f"Recorded under {best.physics} physics on a simulator that computes as this one does ({measured})."
    if median > UNRELATED * step:
        return f"These rows do not follow from one another under any physics ({measured}): wrong order or states."
    if len(ordered) > 1 and CLOSER * median < ordered[1].observation.p50:
        return f"Closest to {best.physics} physics, but not it ({measured}): another version, or altered dynamics."
    which = "neither physics" if len(ordered) > 1 else f"{best.physics} physics"
    return f"This simulator does not give the recorded steps under {which} ({measured}): other dynamics."


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep MuJoCo from printing, and from leaving a log file, when a broken state makes it give up; the error tells."""
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def _spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most so many of the rows ``[n]``, spread evenly over them."""
    count = min(most, len(rows))
    return rows[np.arange(count) * len(rows) // max(count, 1)]


def _off(found: Floats, recorded: Numbers) -> Floats:
    """Absolute differences, ``_HUGE`` at most, also where the simulation broke down."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.minimum(np.nan_to_num(np.abs(found - recorded), nan=_HUGE, posinf=_HUGE), _HUGE)
