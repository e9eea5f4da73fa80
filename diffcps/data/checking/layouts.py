"""What a data set shows of its maze: where the goal is and which cells were visited."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from diffcps.data.checking.recording import Flags, Recording
from diffcps.envs.simulations import Layout

Points = NDArray[np.float64]

_ROUNDS = 4
_NEAREST = 1000
"""Positions on either side of the goal's edge that its centre is fitted to."""
_EXPLAINED = 0.999
"""Share of the rewards that a goal must explain to be believed."""


@dataclass(frozen=True)
class Goal:
    """The disc that explains the rewards of a data set."""

    x: float
    y: float
    radius: float
    """Metres; the task's own, or where the fit puts the edge between rewarded and unrewarded positions."""
    observation: Literal["next", "own"]
    """Whether a row's reward belongs to its own observation or to the next one."""
    explained: float
    """Share of the comparable rows with a reward that the disc explains."""


@dataclass(frozen=True)
class Visits:
    """How a data set covers its maze."""

    reached: float
    """Share of complete trajectories with a reward."""
    cells: int
    """Free cells with a row in them."""
    free_cells: int
    share: tuple[float, ...]
    """Share of the rows in each free cell, in the order of ``Layout.cells``."""
    in_walls: int
    """Rows with a position in a wall's cell or outside the maze."""
    goal: Goal | None
    """The one goal that explains the rewards; ``None`` when none does (a goal an episode, or no rewards)."""


def visits(maze: Layout, data: Recording) -> Visits:
    """Coverage, success and the implied goal."""
    position = data.own[:, :2].astype(np.float64)
    usable = np.isfinite(position).all(axis=1)
    free = np.round(maze.centres() / maze.cell)
    index = np.round(position[usable] / maze.cell)
    counts = np.array([(index == cell).all(axis=1).sum() for cell in free])
    rewarded = [bool((data.rewards[part] > 0).any()) for part in data.segments() if data.ends[part.stop - 1]]
    total = max(int(usable.sum()), 1)
    return Visits(
        reached=float(np.mean(rewarded)) if rewarded else 0.0,
        cells=int((counts > 0).sum()),
        free_cells=len(free),
        share=tuple(float(count) / total for count in counts),
        in_walls=int(usable.sum() - counts.sum()),
        goal=implied_goal(data),
    )


def implied_goal(data: Recording) -> Goal | None:
    """The disc outside which no row is rewarded and inside which every row is, as nearly as there is one.

    Its centre g and squared radius are the widest strip that parts rewarded from unrewarded positions p: |p − g|² is
    linear in (g, |g|² − radius²) but for the known |p|², so the widest strip is a linear programme.
    """
    rows = np.flatnonzero(data.known & np.isfinite(data.rewards))
    place, at, rewarded = data.observations[:, :2].astype(np.float64), data.at[rows], data.rewards[rows] > 0
    fitted = [_fit("next", place[at + 1], rewarded), _fit("own", place[at], rewarded)]
    found = [goal for goal in fitted if goal is not None and goal.explained >= _EXPLAINED]
    return max(found, key=lambda goal: goal.explained, default=None)


def _fit(observation: Literal["next", "own"], positions: Points, rewarded: Flags) -> Goal | None:
    """The disc that is fitted to the positions nearest to the edge; ``None`` without rewards."""
    usable = np.isfinite(positions).all(axis=1)
    positions, rewarded = positions[usable], rewarded[usable]
    inside, outside = positions[rewarded], positions[~rewarded]
    if len(inside) == 0 or len(outside) == 0:
        return None
    centre = inside.mean(axis=0)
    squared, x, y = 0.0, float(centre[0]), float(centre[1])
    for _ in range(_ROUNDS):
        farthest = inside[np.argsort(-np.square(inside - centre).sum(axis=1))[:_NEAREST]]
        nearest = outside[np.argsort(np.square(outside - centre).sum(axis=1))[:_NEAREST]]
        points = np.concatenate([farthest, nearest]) - centre
        sign = np.repeat([1.0, -1.0], [len(farthest), len(nearest)])
        # sign·(|p|² − 2 p·g + c) ≤ −margin, the margin as large as it can be
        matrix = np.column_stack(
            [sign[:, None] * np.column_stack([-2.0 * points, np.ones(len(points))]), np.ones(len(points))]
        )
        solved = linprog(
            [0.0, 0.0, 0.0, -1.0],
            matrix,
            -sign * np.square(points).sum(axis=1),
            bounds=[(None, None)] * 3 + [(None, 1.0)],
        )
        if not solved.success:
            break
        gx, gy, c, _ = solved.x
        squared = gx**2 + gy**2 - c
        x, y = centre[0] + gx, centre[1] + gy
        centre = np.array([x, y])
    within = np.square(positions - [x, y]).sum(axis=1) <= squared
    return Goal(
        x=float(x),
        y=float(y),
        radius=float(np.sqrt(max(squared, 0.0))),
        observation=observation,
        explained=float((within == rewarded).mean()),
    )
