"""Errands in the mazes: shortest ways, D4RL's start and goal cells, arrivals."""

from itertools import pairwise

import numpy as np
import pytest

from diffcps.data.collecting import behaviour
from diffcps.data.collecting.mazes import PLAY_GOALS, AntErrands, Errands, shortest_ways
from diffcps.envs import antmaze, simulations
from diffcps.envs.pointmaze import GOAL_CELL, MAZE, START_CELL
from diffcps.tasks.registry import get_task


@pytest.mark.parametrize("maze", ["umaze", "medium", "large"])
def test_ways_are_shortest_and_connected(maze: str) -> None:
    free = antmaze.MAZES[maze].cells()
    ((start),) = antmaze.MAZES[maze].cells("S")
    ways = shortest_ways(start, free)
    assert set(ways) == set(free), "every free cell can be reached"
    for cell, way in ways.items():
        route = [start, *way]
        assert route[-1] == cell
        assert all(abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1 for a, b in pairwise(route))
        assert len(way) >= abs(cell[0] - start[0]) + abs(cell[1] - start[1])


def test_lengths_of_known_ways() -> None:
    assert len(shortest_ways(START_CELL, MAZE.cells())[GOAL_CELL]) == 6
    lengths = {}
    for maze in ("umaze", "medium", "large"):
        (start,), (goal,) = antmaze.MAZES[maze].cells("S"), antmaze.MAZES[maze].cells("G")
        lengths[maze] = len(shortest_ways(start, antmaze.MAZES[maze].cells())[goal])
    # counted by hand on the maps
    assert lengths == {"umaze": 6, "medium": 10, "large": 14}


def test_cells_and_positions_are_inverse() -> None:
    for maze in ("umaze", "medium", "large"):
        for cell in antmaze.MAZES[maze].cells():
            assert antmaze.MAZES[maze].at(antmaze.MAZES[maze].centre(cell) + 1.9) == cell
            assert antmaze.MAZES[maze].at(antmaze.MAZES[maze].centre(cell) - 1.9) == cell
    assert antmaze.MAZES["umaze"].centre((3, 1)).tolist() == [0.0, 8.0]


def test_errands_of_each_protocol() -> None:
    umaze = Errands.of(get_task("antmaze-umaze-v0"))
    assert (umaze.starts, umaze.goals) == (((1, 1),), ((3, 1),))
    play = Errands.of(get_task("antmaze-large-play-v0"))
    assert play.goals == PLAY_GOALS["large"]
    assert not set(play.starts) & set(play.goals)
    assert set(play.starts) | set(play.goals) == set(antmaze.MAZES["large"].cells())
    diverse = Errands.of(get_task("antmaze-medium-diverse-v0"))
    assert diverse.starts == diverse.goals == antmaze.MAZES["medium"].cells()


def test_play_goals_are_free_cells() -> None:
    for maze, goals in PLAY_GOALS.items():
        assert set(goals) <= set(antmaze.MAZES[maze].cells())


def test_ants_begin_in_start_cells_of_their_own() -> None:
    task = get_task("antmaze-medium-diverse-v0")
    errands = AntErrands(task, behaviour.load("ant").of("expert")[0], 1)
    cells = set()
    for seed in range(60):
        options = errands.begin(0, np.random.default_rng(seed))
        assert options is not None
        cell = antmaze.MAZES["medium"].at(options["start"])
        assert (options["start"] >= antmaze.MAZES["medium"].centre(cell)).all()
        assert (options["start"] <= antmaze.MAZES["medium"].centre(cell) + 1).all()
        cells.add(cell)
    assert len(cells) > 15


def test_a_pushed_ant_finds_its_way_again() -> None:
    """An ant put down in another corridor is sent along that corridor, not through the wall."""
    task = get_task("antmaze-umaze-v0")
    errands = AntErrands(task, behaviour.load("ant").of("expert")[0], 1)
    many = simulations(task, "d4rl", 1)
    errands.begin(0, np.random.default_rng(0))
    many.restart(0, 0)
    errands.act(many, np.array([True]))
    assert errands._way[0][0] == (1, 2)
    many.restart(0, 0, {"start": antmaze.MAZES["umaze"].centre((3, 3))})
    errands.act(many, np.array([True]))
    assert errands._way[0] == [(3, 2), (3, 1)]
    many.close()


def test_starts_in_walls_are_refused() -> None:
    env = antmaze.AntMaze("umaze")
    with pytest.raises(ValueError, match="free cell"):
        env.reset(seed=0, options={"start": (0.0, 4.0)})
    with pytest.raises(ValueError, match="unknown reset options"):
        env.reset(seed=0, options={"goal": (0.0, 4.0)})
    observation, _ = env.reset(seed=0, options={"start": (8.0, 4.0)})
    assert np.abs(observation[:2] - (8, 4)).max() <= 0.1
