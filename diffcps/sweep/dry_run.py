"""What a sweep would run: every trial with its settings and its time, timed by a few steps on this machine."""

import functools
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Container, Sequence

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from diffcps import algorithms
from diffcps.algorithms.base import Batch
from diffcps.algorithms.ways import OF_EVALUATION
from diffcps.config import Actor, RunConfig
from diffcps.data import library
from diffcps.envs import make_vector
from diffcps.errors import UserError
from diffcps.runs import inert
from diffcps.runs.criteria import CRITERIA, SCORE
from diffcps.runs.flags import SweepOptions
from diffcps.runs.plan import Plan
from diffcps.runs.presets import changed_settings
from diffcps.sweep import groups, limits, mps
from diffcps.sweep.resources import Cluster, Node, Resources, share_gpus, threads_of
from diffcps.tasks.registry import Environment, Task, task_of
from diffcps.text import counted, duration, say, worded
from diffcps.training import cost
from diffcps.training.learner import Learner, Part
from diffcps.training.measures import MEASURES
from diffcps.training.process import prepare_process

_WIDTH = 132
"""Columns of the table on a narrower terminal, which breaks its lines: cutting the names would lose them."""

Rule = tuple[Actor, int]
"""Who acts, and among how many candidates."""


def show(plan: Plan, options: SweepOptions, console: Console) -> None:
    """Print every trial with what it would take."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # as many threads as a worker will have; more would compete with other processes for the cores
    cpus_of_worker = (options.cpus_per_trial or 1.0) / options.workers_per_trial
    prepare_process(min(threads_of(cpus_of_worker), os.cpu_count() or 1), device)
    estimator = Estimator(device)
    seconds = [estimator.seconds(trial) for trial in plan.trials]
    Console(file=console.file, width=max(console.width, _WIDTH)).print(_table(plan, seconds))
    for note in inert.notes(plan.trials, without=[axis.name for axis in plan.axes]):
        say(console, f"note: {note}")
    cpus: object = options.cpus_per_trial
    if cpus is None:
        cpus = "1 per worker (0.9 if the cluster has at most 4; with a GPU, its share of those beside the GPU)"
    gpus: object = options.gpus_per_trial
    if gpus is None:
        gpus = "1 per worker if the cluster has any, else 0"
    workers = options.workers_per_trial
    say(console, f"each trial takes: CPUs {cpus}; GPUs {gpus}; workers {workers}")
    if share_gpus(options):
        say(console, mps.assumed(options.address or os.environ.get("RAY_ADDRESS")))
    if how := packing(plan, options, _this_machine()):
        say(console, how)
    if plan.search is not None:
        what = "the last score" if plan.objective == SCORE else CRITERIA[plan.objective].goal
        say(console, f"Optuna goes by {what} (final checkpoint, mean over seeds) in {plan.search} trials a task")
    if plan.prune:
        say(console, f"trials are ended early by --prune {plan.prune}; the time below is that of whole trials")
    for name in dict.fromkeys(name for trial in plan.trials for name in trial.measures if not MEASURES[name].timed):
        say(console, f"the measure {name} is not part of the time below")
    total = sum(map(sum, seconds)) * (plan.search or 1)
    console.print(
        f"at most {duration(total)} of work for one trial at a time, just timed on the {device.type} of this machine "
        "(without compiling, which saves long trials a quarter to a half; with every episode as long as its limit)",
        highlight=False,
    )


def packing(plan: Plan, options: SweepOptions, cluster: Cluster) -> str:
    """How trials would train together on a cluster, in a sentence; empty where each trains alone, or not even one fits."""
    if plan.search is not None:
        return ""
    try:
        resources = Resources.fitting(cluster, options)
    except UserError:  # what is asked for is a larger cluster's
        return ""
    found = groups.grouped(plan.trials, options.pack_trials, resources)
    if not (how := groups.packed(found)):
        return ""
    return (
        f"on {cluster.description}, trials would train together (--pack-trials {options.pack_trials}): {how}, of at most "
        f"{counted(max(map(groups.members, found)), 'member')}; the times are those of each trial by itself"
    )


def _this_machine() -> Cluster:
    """This machine as a cluster."""
    gpus = torch.cuda.device_count()
    return Cluster(f"this machine with {counted(gpus, 'GPU')}", (Node(limits.cores(), gpus, 0.0),))


def _table(plan: Plan, seconds: Sequence[tuple[float, float]]) -> Table:
    """A row for each trial."""
    searched = {axis.name: f"from {axis}" for axis in plan.axes} if plan.search else {}
    symbols = {name: str(symbol) for trial in plan.trials for name, symbol in trial.symbols.items()}
    shown = symbols | {axis.name: symbols.get(axis.name, axis.name) for axis in plan.axes}
    different = _different(plan, shown)
    columns = ["task", "data", *shown.values(), "seeds", "steps", "learn", "evaluate"]
    table = Table(*columns, title=f"{plan.name}: {counted(plan.count, 'trial')}", title_justify="left")
    if any(different):
        table.add_column("other settings", overflow="fold")
    for trial, (learning, evaluating), others in zip(plan.trials, seconds, different, strict=True):
        values = [searched.get(name) or _value(trial, name) for name in shown]
        table.add_row(
            trial.task, trial.data.source, *values, str(len(trial.members)), f"{trial.steps:,}",
            duration(learning), f"≤ {duration(evaluating)}", *([", ".join(others)] if any(different) else []),
        )  # fmt: skip
    return table


def _different(plan: Plan, shown: Container[str]) -> list[list[str]]:
    """For each trial the settings that not all trials of its algorithm have, but for those that are ``shown`` in columns."""
    found: list[list[str]] = []
    common: dict[str, set[str]] = {}
    for trial in plan.trials:
        said = [f"{name} {_value(trial, name)}" for name in ("profile", *trial.settings) if name not in shown]
        found.append([*said, *(text for text in changed_settings(trial) if text.startswith("evaluation."))])
        common[trial.algorithm] = common.get(trial.algorithm, set(found[-1])) & set(found[-1])
    return [
        [text for text in texts if text not in common[trial.algorithm]]
        for trial, texts in zip(plan.trials, found, strict=True)
    ]


def _value(trial: RunConfig, name: str) -> str:
    """The value of a setting, those of all members where they differ; empty if the trial's algorithm has no such setting."""
    values = dict.fromkeys(trial.values(name))
    return ", ".join(worded(value) for value in values if value is not None or name in trial.settings)


class Estimator:
    """Times each distinct computation once: same sizes and same algorithm take the same time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._steps: dict[Environment, float] = {}
        self._known: dict[tuple[object, ...], tuple[list[float], dict[Rule, float]]] = {}

    def seconds(self, trial: RunConfig) -> tuple[float, float]:
        """(learning, evaluation) in seconds; the second supposes that every episode lasts to its limit."""
        task = task_of(trial)
        count = len(trial.members)
        sizes = task.observation_size, task.action_size
        own = trial.algorithm, _of_computation(trial), trial.evaluation, trial.acting, trial.measures
        key = (*own, count, *sizes)
        if key not in self._known:
            self._known[key] = self._time(trial, task)
        each, act = self._known[key]
        learning = cost.over_stages(trial, each) + _filling(trial, task, each)
        if not trial.evaluation.episodes:
            return learning, 0.0
        if task.environment not in self._steps:
            self._steps[task.environment] = _environment_step(trial, task)
        move = self._steps[task.environment] * count * trial.evaluation.episodes
        rolled = sum((act[rule] + move) * times for rule, times in evaluations(trial).items())
        return learning, rolled * task.episode_limit

    def _time(self, trial: RunConfig, task: Task) -> tuple[list[float], dict[Rule, float]]:
        """Seconds of a gradient step of each stage, and of an action of all episodes by who acts among how many candidates."""
        rows = 100  # some algorithms draw actions for every row before a stage begins
        data = Batch(
            observations=torch.randn(rows, task.observation_size),
            actions=2 * torch.rand(rows, task.action_size) - 1,
            rewards=torch.randn(rows),
            next_observations=torch.randn(rows, task.observation_size),
            terminals=torch.zeros(rows),
        )
        learner = Learner([Part(trial, data)], task.max_action, self.device)

        def steps(begin: int, count: int) -> None:
            learner.step = begin
            learner.update(count)

        each, begin = [], 0
        for stage in cost.counted(trial).stages:
            each.append(self._median(functools.partial(steps, begin, len(stage.cycle))) / len(stage.cycle))
            begin = stage.until or begin
        policy, count = learner.policy(), len(trial.members)
        generators = [torch.Generator(self.device).manual_seed(k) for k in range(count)]
        states = [data.observations.numpy()[: max(1, trial.evaluation.episodes)]] * count
        return each, {
            (actor, candidates): self._median(
                functools.partial(policy.act, states, generators, candidates=candidates, actor=actor)
            )
            for actor, candidates in evaluations(trial)
        }

    def _median(self, work: Callable[[], object]) -> float:
        """Seconds that ``work`` takes: the middle one of a quarter of a second of runs, as a busy machine stalls some."""
        work()
        seconds: list[float] = []
        begun = time.perf_counter()
        while not seconds or time.perf_counter() - begun < 0.25:
            start = time.perf_counter()
            work()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)


def _of_computation(trial: RunConfig) -> tuple[tuple[str, object], ...]:
    """The settings by which trials compute different things.

    Those in which the members of a pack may differ only scale numbers; without a value, or at 0, a computation may be left out.
    """
    scales = algorithms.get(trial.algorithm).settings.of_member()
    return tuple((name, bool(value) if name in scales else value) for name, value in trial.settings.items())


def _filling(trial: RunConfig, task: Task, each: Sequence[float]) -> float:
    """Seconds that drawing actions for the whole data set takes between stages, at the speed of the gradient steps ``each``."""
    flops = cost.filling_flops(trial)
    if not any(flops):
        return 0.0
    counts = cost.counted(trial)
    work = sum(counts.kinds[kind].flops for stage in counts.stages for kind in stage.cycle)
    seconds = sum(one * len(stage.cycle) for one, stage in zip(each, counts.stages, strict=True))
    rows = trial.data.rows if library.source(trial.data.source).makes else task.rows
    begins = [0, *(stage.until or 0 for stage in counts.stages[:-1])]
    filled = sum(own for own, begin in zip(flops, begins, strict=True) if begin < trial.steps)
    return filled * rows * seconds / work


def evaluations(trial: RunConfig) -> dict[Rule, int]:
    """Who acts, among how many candidates -> how often all of a trial's episodes are rolled out so.

    The last evaluation takes a round for each ``episodes`` of its ``final_episodes``, and so does each other way to act;
    measures come with every evaluation.
    """
    config = trial.evaluation
    own: Rule = config.actor, config.candidates
    count = -(-trial.steps // config.every)
    last = -(-config.episodes_at(True) // max(1, config.episodes))
    found = Counter({own: count - 1 + last})
    for way in algorithms.other_ways(trial):
        rule = way.rule(config) if way.name in OF_EVALUATION else config
        found[rule.actor, rule.candidates] += count - 1 + last if way.always else last
    for name in trial.measures:
        for acting in MEASURES[name].rollouts(trial):
            found[acting] += count
    return dict(found)


def _environment_step(trial: RunConfig, task: Task) -> float:
    """Seconds for one step of one environment, in a vector of them."""
    count, steps = 10, 20
    environments = make_vector(task, trial.physics, count)
    environments.reset(list(range(count)))
    actions, active = np.zeros((count, task.action_size), np.float32), np.ones(count, bool)
    start = time.perf_counter()
    for _ in range(steps):
        environments.step(actions, active)
    seconds = time.perf_counter() - start
    environments.close()
    return seconds / (steps * count)
