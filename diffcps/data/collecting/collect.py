"""Data made on this machine: behaviour policies rolled out in the evaluation environments, deterministic in the seed.

They replace downloaded data where there are none. They are not D4RL's data, and every score learned from them says so.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diffcps import envs
from diffcps.config import DataConfig
from diffcps.data.collecting import behaviour
from diffcps.data.collecting.behaviour import BehaviourPolicy
from diffcps.data.collecting.controllers import CONTROLLERS, played
from diffcps.data.collecting.mazes import AntErrands, PointWanders
from diffcps.data.library import Progress
from diffcps.data.transitions import Episode
from diffcps.envs.simulations import Simulations, processors
from diffcps.tasks.bandits import bandit
from diffcps.tasks.registry import Task

_PROGRESS_EVERY = 1000
_SIMULATIONS = 16
"""Most simulations side by side."""


class Behaviour(Protocol):
    """Chooses the actions of n simulations while data are collected.

    All random numbers of an episode come from the generator that it begins with.
    """

    def begin(self, i: int, generator: np.random.Generator) -> dict[str, Any] | None:
        """Prepare an episode in simulation ``i``; returns the options of the environment's ``reset``."""

    def act(self, simulations: Simulations, active: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Actions ``[n, a]``; those of simulations that are not ``active`` ``[n]`` do not matter."""


def collect(task: Task, data: DataConfig, progress: Progress | None = None) -> list[Episode]:
    """Exactly ``data.rows`` steps of the task's behaviour under ``task.physics``; the same seed gives the same bits.

    The last episode of each part (a policy of replay data, a half of medium-expert) may be cut by the row count; it
    then ends with neither flag. All arrays but the flags are float32.
    """
    tell = progress or (lambda done, rows: None)
    if task.bandit is not None:
        tell(data.rows, data.rows)  # it takes no time
        return [_bandit(task.bandit, data.rows, np.random.default_rng(data.seed))]
    if task.environment.id in CONTROLLERS:
        tell(data.rows, data.rows)  # it takes a second
        return _first(played(task, data.rows, data.seed), data.rows)
    done = 0
    episodes: list[Episode] = []
    for number, (rows, policy) in enumerate(_parts(task, data.rows)):

        def report(recorded: int, before: int = done) -> None:
            tell(before + recorded, data.rows)

        episodes += _record(task, policy, rows=rows, seed=(data.seed, number), progress=report)
        done += rows
    return episodes


def _parts(task: Task, rows: int) -> list[tuple[int, BehaviourPolicy | None]]:
    """The rows that each policy makes: replay data come from all on the way to the medium one, in equal shares."""
    if task.robot is None:
        return [(rows, None)]
    policies = behaviour.load(task.robot).of(task.level)
    edges = [rows * i // len(policies) for i in range(len(policies) + 1)]
    parts = zip(policies, edges, edges[1:], strict=False)
    return [(end - start, policy) for policy, start, end in parts if end > start]


class _Policy:
    """A shipped behaviour policy with its own action noise."""

    def __init__(self, policy: BehaviourPolicy, n: int, bound: float) -> None:
        self._policy, self._bound = policy, bound
        self._generators: list[np.random.Generator] = [np.random.default_rng(0)] * n

    def begin(self, i: int, generator: np.random.Generator) -> dict[str, Any] | None:
        self._generators[i] = generator
        return None

    def act(self, simulations: Simulations, active: NDArray[np.bool_]) -> NDArray[np.float32]:
        actions = self._policy.mean(simulations.observations)
        for i in np.flatnonzero(active):
            noise = self._generators[i].standard_normal(actions.shape[1], dtype=np.float32)
            actions[i] = np.clip(actions[i] + self._policy.action_std * noise, -self._bound, self._bound)
        return actions


def _behaviour(task: Task, policy: BehaviourPolicy | None, n: int) -> Behaviour:
    if policy is None:
        return PointWanders(n)
    return AntErrands(task, policy, n) if task.goals is not None else _Policy(policy, n, task.max_action)


def _record(
    task: Task, policy: BehaviourPolicy | None, rows: int, seed: tuple[int, int], progress: Callable[[int], None]
) -> list[Episode]:
    """Exactly ``rows`` steps: episodes 0, 1, … in order, the last one cut where the rows are full.

    Several simulations run at once; each takes the next episode that none has begun. Episode i has random streams of its
    own, so the result does not depend on which simulation runs it.
    """
    n = min(_SIMULATIONS, -(-rows // task.episode_limit))
    world = task
    if task.goals is not None:  # the rewards are those of one goal for the whole data set, as in D4RL
        arguments = {**task.environment.arguments, "goal_seed": 0}
        world = replace(task, environment=replace(task.environment, arguments=arguments))
    simulations = envs.simulations(world, task.physics, n=n, threads=processors(), goal_seeds=[seed[0]] * n)
    try:
        return _Recorder(task, simulations, _behaviour(task, policy, n), seed).record(rows, progress)
    finally:
        simulations.close()


class _Recorder:
    """Plays numbered episodes in several simulations and writes them down."""

    def __init__(self, task: Task, simulations: Simulations, choose: Behaviour, seed: tuple[int, int]) -> None:
        n, limit = simulations.n, task.episode_limit
        self._simulations, self._behaviour, self._seed = simulations, choose, seed
        self._continues = not task.terminals_end
        self._number = np.full(n, -1)
        self._age = np.zeros(n, np.int64)
        self._observations = np.zeros((n, limit + 1, task.observation_size), np.float32)
        self._actions = np.zeros((n, limit, task.action_size), np.float32)
        self._rewards = np.zeros((n, limit), np.float32)
        self._flags = np.zeros((n, limit, 2), bool)
        self._begun = 0
        self._whole: dict[int, Episode] = {}
        self._rows = 0  # of all whole episodes
        self._settled = self._settled_rows = 0  # whole episodes from the first on without a gap, and their rows

    def record(self, rows: int, progress: Callable[[int], None]) -> list[Episode]:
        """The first ``rows`` steps of episodes 0, 1, …"""
        said = 0
        while not self._enough(rows):
            for i in np.flatnonzero(self._number < 0):
                if self._rows + int(self._age.sum()) < rows:  # else the running episodes suffice
                    self._begin(int(i))
            self._step(self._number >= 0)
            recorded = self._rows + int(self._age.sum())
            if recorded - said >= _PROGRESS_EVERY:
                said = recorded
                progress(min(said, rows))
        progress(rows)
        return _first(self._played(), rows)

    def _begin(self, i: int) -> None:
        generator = np.random.default_rng((*self._seed, self._begun))
        options = self._behaviour.begin(i, generator)
        self._number[i], self._age[i] = self._begun, 0
        self._observations[i, 0] = self._simulations.restart(i, int(generator.integers(2**31)), options)
        self._begun += 1

    def _step(self, active: NDArray[np.bool_]) -> None:
        now = np.flatnonzero(active)
        actions = self._behaviour.act(self._simulations, active)
        observations, rewards, over = self._simulations.step(actions, active)
        terminated = self._simulations.terminated
        ages = self._age[now]
        self._observations[now, ages + 1] = observations[now]
        self._actions[now, ages] = actions[now]
        self._rewards[now, ages] = rewards[now]
        self._age[now] += 1
        cut = self._age >= self._actions.shape[1]
        if self._continues:
            over = cut
        self._flags[now, ages] = np.stack([terminated, cut & (self._continues | ~terminated)], axis=1)[now]
        for i in now[over[now]]:
            self._whole[int(self._number[i])] = self._episode(int(i), int(self._age[i]))
            self._rows += int(self._age[i])
            self._number[i], self._age[i] = -1, 0

    def _episode(self, i: int, steps: int) -> Episode:
        return Episode(
            observations=self._observations[i, : steps + 1].copy(),
            actions=self._actions[i, :steps].copy(),
            rewards=self._rewards[i, :steps].copy(),
            terminations=self._flags[i, :steps, 0].copy(),
            truncations=self._flags[i, :steps, 1].copy(),
        )

    def _enough(self, rows: int) -> bool:
        """Whether episodes 0, 1, … have been played far enough to give ``rows`` steps."""
        while self._settled in self._whole:
            self._settled_rows += len(self._whole[self._settled].rewards)
            self._settled += 1
        playing = self._age[self._number == self._settled]
        return self._settled_rows + int(playing.sum()) >= rows

    def _played(self) -> Iterator[Episode]:
        """Episodes 0, 1, … as far as they have come."""
        for number in range(self._begun):
            if number in self._whole:
                yield self._whole[number]
            else:
                i = int(np.flatnonzero(self._number == number)[0])
                yield self._episode(i, int(self._age[i]))


def _first(played: Iterable[Episode], rows: int) -> list[Episode]:
    """The first ``rows`` steps of these episodes, when there are enough; the last episode may be cut."""
    episodes: list[Episode] = []
    for episode in played:
        episodes.append(_shortened(episode, rows))
        rows -= len(episodes[-1].rewards)
        if rows == 0:
            break
    return episodes


def _shortened(episode: Episode, steps: int) -> Episode:
    if steps >= len(episode.rewards):
        return episode
    parts = {name: values[:steps] for name, values in vars(episode).items() if name != "observations"}
    return Episode(observations=episode.observations[: steps + 1], **parts)


def _bandit(name: str, rows: int, generator: np.random.Generator) -> Episode:
    """One-step episodes, packed into one ``Episode`` in which every step terminates."""
    known = bandit(name)
    actions = known.sample(rows, generator)
    return Episode(
        observations=np.zeros((rows + 1, 1), dtype=np.float32),
        actions=np.asarray(actions, dtype=np.float32),
        rewards=np.asarray(known.rewards(actions, generator), dtype=np.float32),
        terminations=np.ones(rows, dtype=bool),
        truncations=np.zeros(rows, dtype=bool),
    )
