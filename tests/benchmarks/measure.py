"""What is compared, and the clock: the yardstick and packs on the same data, timed in turns.

Machines are shared and noisy, so two programs that are compared take turns (A B A B …) and the best turn of each counts.
"""

import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import torch

from diffcps import algorithms
from diffcps.config import EvaluationConfig, Member, RunConfig
from diffcps.envs import make
from diffcps.runs import presets
from diffcps.tasks.registry import Task, get_task
from diffcps.training.engine import EngineKind
from diffcps.training.evaluation import Evaluator
from diffcps.training.learner import Learner, Part
from diffcps.training.process import prepare_process

from . import reference

ROWS = 100_000
"""Transitions of the made-up data set: more than a cache holds, as a real one is."""


@dataclass(frozen=True)
class Variant:
    """One way to run one task's gradient steps."""

    task: str
    members: int
    precision: str
    engine: EngineKind


@dataclass(frozen=True)
class Rate:
    """Units of work per second in each turn."""

    turns: tuple[float, ...]

    @property
    def best(self) -> float:
        return max(self.turns)

    @property
    def median(self) -> float:
        return statistics.median(self.turns)


@dataclass(frozen=True)
class Contender:
    """A program to be timed."""

    take: Callable[[int], int]
    """``take(n)`` works n times, or as often as whole episodes need, and returns the units of work done."""
    settle: Callable[[], None]
    """Sets torch up for it."""


# The clock ------------------------------------------------------------------------------------------------------------


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(contender: Contender, times: int, device: torch.device) -> tuple[int, float]:
    """Units of work done and the seconds that they took."""
    contender.settle()
    synchronise(device)
    start = time.perf_counter()
    done = contender.take(times)
    synchronise(device)
    return done, time.perf_counter() - start


def times_for(contender: Contender, seconds: float, device: torch.device, least: int) -> int:
    """How often it must work to fill that time, a multiple of ``least``; finding out warms up as well."""
    timed(contender, least, device)
    times = least
    while True:
        _, taken = timed(contender, times, device)
        if taken >= seconds / 4:
            return max(least, round(seconds * times / taken / least) * least)
        times *= 2


def alternate(
    contenders: Sequence[Contender], seconds: float, rounds: int, device: torch.device, least: int = 1
) -> list[Rate]:
    """Units of work per second of each, measured in turns of about ``seconds``."""
    times = [times_for(contender, seconds, device, least) for contender in contenders]
    turns: list[list[float]] = [[] for _ in contenders]
    for _ in range(rounds):
        for own, contender, count in zip(turns, contenders, times, strict=True):
            done, taken = timed(contender, count, device)
            own.append(done / taken)
    return [Rate(tuple(own)) for own in turns]


def release(device: torch.device) -> None:
    """Give back what a measured program held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


# What is compared -----------------------------------------------------------------------------------------------------


def _fp32_route() -> str | None:
    """How fp32 products on the CPU are computed; ``None`` where torch leaves no choice."""
    return getattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision", None)


PLAIN_ROUTE = _fp32_route()
"""torch's own choice: this module is imported before anything prepares the process."""


class Routes:
    """Switches torch between what the yardstick runs under, torch as it comes, and what the pack runs under."""

    def __init__(self, threads: int, device: torch.device) -> None:
        prepare_process(threads, device)
        self._prepared = _fp32_route()

    def plain(self) -> None:
        self._take(PLAIN_ROUTE)

    def prepared(self) -> None:
        self._take(self._prepared)

    def _take(self, route: str | None) -> None:
        if route is not None:
            torch.backends.mkldnn.matmul.fp32_precision = route  # type: ignore[attr-defined]


def settings(task: Task, precision: str = "fp32", members: int = 1) -> RunConfig:
    """The paper's settings for the task; the averaged policy moves from the first step, as in nearly all of a run."""
    return presets.official(task, seeds=members).with_settings(ema_start=0, precision=precision)


def made_up_data(task: Task, rows: int = ROWS) -> SimpleNamespace:
    """A data set of the task's sizes, float32, with numbers of the right order."""
    rng = np.random.default_rng(0)
    return SimpleNamespace(
        observations=rng.standard_normal((rows, task.observation_size), np.float32),
        actions=rng.uniform(-1.0, 1.0, (rows, task.action_size)).astype(np.float32),
        rewards=rng.standard_normal(rows, np.float32),
        next_observations=rng.standard_normal((rows, task.observation_size), np.float32),
        terminals=(rng.random(rows) < 0.01).astype(np.float32),
    )


def build_agent(task: Task, data: SimpleNamespace, device: torch.device) -> reference.Agent:
    tensors = {name: torch.as_tensor(value, device=device) for name, value in vars(data).items()}
    tensors |= {name: tensors[name][:, None] for name in ("rewards", "terminals")}
    (own,) = algorithms.settings(settings(task))
    return reference.Agent(own, reference.Batch(**tensors), task.max_action, device)


def build_learner(variant: Variant, data: SimpleNamespace, device: torch.device) -> Learner:
    task = get_task(variant.task)
    trial = settings(task, variant.precision, variant.members)
    return Learner([Part(trial, data)], task.max_action, device, variant.engine)


def agent_steps(agent: reference.Agent, routes: Routes) -> Contender:
    """Gradient steps of the yardstick."""

    def take(steps: int) -> int:
        for _ in range(steps):
            agent.update()
        return steps

    return Contender(take, routes.plain)


def learner_steps(learner: Learner, routes: Routes) -> Contender:
    """Gradient steps of a pack, one unit for each member that takes one."""

    def take(steps: int) -> int:
        learner.update(steps)
        return steps * learner.members

    return Contender(take, routes.prepared)


def agent_episodes(
    agent: reference.Agent, environment: gymnasium.Env[Any, Any], candidates: int, routes: Routes
) -> Contender:
    """Environment steps of the yardstick, in whole episodes."""
    seeds = iter(range(10**9))

    def take(steps: int) -> int:
        done = 0
        while done < steps:
            [(_, length)] = reference.evaluate(agent, environment, [next(seeds)], candidates)
            done += length
        return done

    return Contender(take, routes.plain)


def pack_episodes(learner: Learner, evaluator: Evaluator, routes: Routes) -> Contender:
    """Environment steps of all members together, in whole evaluations."""
    policy, indices = learner.policy(), iter(range(10**9))

    def take(steps: int) -> int:
        done = 0
        while done < steps:
            done += int(evaluator(policy, next(indices)).lengths.sum())
        return done

    return Contender(take, routes.prepared)


def evaluation_rates(
    task: Task, variant: Variant, threads: int, routes: Routes, device: torch.device, seconds: float, rounds: int
) -> list[Rate]:
    """Environment steps per second of the yardstick acting at one state at a time, and of a pack's evaluator.

    ``threads`` step the pack's environments.
    """
    data = made_up_data(task, rows=1000)
    agent, learner = build_agent(task, data, device), build_learner(variant, data, device)
    members = [Member(seed) for seed in range(variant.members)]
    config = EvaluationConfig(episodes=10)
    evaluator, environment = Evaluator(task, "d4rl", members, config, threads=threads), make(task, "d4rl")
    contenders = (
        agent_episodes(agent, environment, config.candidates, routes),
        pack_episodes(learner, evaluator, routes),
    )
    rates = alternate(contenders, seconds, rounds, device)
    evaluator.close()
    environment.close()
    return rates


def matrix_rate(device: torch.device, dtype: torch.dtype, batch: int, size: int, seconds: float) -> float:
    """FLOP/s of ``batch`` products of ``size`` × ``size`` matrices, by whatever route torch is set to; the best turn."""
    left, right = (torch.randn(batch, size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    if batch == 1:  # not a batch of one: libraries have another, faster way for that
        left, right, out = left[0], right[0], out[0]

    def take(count: int) -> int:
        for _ in range(count):
            torch.matmul(left, right, out=out)
        return count

    [rate] = alternate([Contender(take, lambda: None)], seconds / 3, 3, device, least=10)
    return 2.0 * batch * size**3 * rate.best


# In a process of its own ----------------------------------------------------------------------------------------------


def in_fresh_process(function: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """``function(*arguments)`` in a new Python."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _resident_bytes(field: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (at its highest) of this process; Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def memory_growth(variant: Variant, threads: int) -> dict[str, float]:
    """Bytes by which this process's resident memory grew, at its highest, from building a pack and stepping it (CPU)."""
    prepare_process(threads)
    task = get_task(variant.task)
    data = made_up_data(task)
    before = _resident_bytes("VmRSS")
    build_learner(variant, data, torch.device("cpu")).update(2 * task.settings["policy_freq"])
    return {"bytes": max(0, _resident_bytes("VmHWM") - before)}


def time_to_steps(variant: Variant, device: str, threads: int, launched: float) -> dict[str, float]:
    """Seconds of a new process: imports, building the learner (compiling included), first step, first twenty steps.

    ``launched`` is the ``time.time()`` at which the process was asked for.
    """
    imports = time.time() - launched
    on = torch.device(device)
    prepare_process(threads, on)
    data = made_up_data(get_task(variant.task))
    start = time.perf_counter()
    learner = build_learner(variant, data, on)
    synchronise(on)
    marks = [time.perf_counter()]
    for steps in (1, 19):
        learner.update(steps)
        synchronise(on)
        marks.append(time.perf_counter())
    seconds = (mark - start for mark in marks)
    return {"imports": imports, **dict(zip(("built", "first_step", "twenty_steps"), seconds, strict=True))}


def as_row(variant: Variant, **values: Any) -> dict[str, Any]:
    """A variant and what was measured of it, for JSON."""
    return asdict(variant) | values
