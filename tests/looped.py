"""A small trial, its loop with made-up scores, kills at any moment, and what a trial leaves behind."""

import itertools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from trials import member, metrics, trial

from diffcps import files
from diffcps.config import EvaluationConfig, RunConfig
from diffcps.data.transitions import DatasetInfo, Transitions
from diffcps.runs.folder import RunFolder
from diffcps.tasks.registry import get_task
from diffcps.training.attempt import Assignment, Attempt
from diffcps.training.evaluation import Rollouts
from diffcps.training.learner import Learner, Part
from diffcps.training.policy import Policy
from diffcps.training.process import Machine
from diffcps.training.together import Together
from diffcps.training.trials import run
from diffcps.training.watchdog import Watchdog
from diffcps.training.workers import Workers

RING = get_task("bandit-ring")
CONFIG = trial(
    RING.name,
    members=(member(5), member(8, learning_rate=1e-3, target_kl=0.5)),
    steps=20,
    diffusion_steps=2,
    hidden_size=8,
    batch_size=4,
    time_embedding=4,
    ema_start=5,
    ema_every=2,
    evaluation=EvaluationConfig(every=6, episodes=3),
    log_every=4,
    checkpoint_minutes=2,
)
METRICS = metrics(CONFIG)


def clock(minutes: Sequence[float] = (1,)) -> Callable[[], float]:
    """A clock in seconds that advances by these minutes, in turn, each time it is read, which is once a row."""
    times = itertools.accumulate(itertools.cycle(minutes))
    return lambda: 60 * next(times)


def transitions() -> Transitions:
    rng = np.random.default_rng(0)
    arrays = {
        "observations": np.zeros((50, 1)),
        "actions": rng.uniform(-1, 1, (50, 2)),
        "rewards": rng.normal(size=50),
        "next_observations": np.zeros((50, 1)),
        "terminals": np.ones(50),
    }
    info = DatasetInfo("collected", None, "c0ffee", "other", "made up", 50, 50, np.arange(4.0))
    return Transitions(**{name: value.astype(np.float32) for name, value in arrays.items()}, info=info)


DATA = transitions()
CPU = Machine(torch.device("cpu"))
BESIDE = Machine(torch.device("cpu"), beside=True)


def make_learner(config: RunConfig = CONFIG) -> Learner:
    return Learner([Part(config, DATA)], RING.max_action)


def evaluate(policy: Policy, index: int, episodes: int = 3) -> Rollouts:
    """[K, episodes] made-up returns that show the weights, the number of the evaluation and the member."""
    weights = policy.parameters["actor"].double().sum(dim=1).numpy()
    shape = policy.members, episodes
    return Rollouts(weights[:, None] + index + 0.01 * np.arange(episodes), np.full(shape, 1 + index))


def late(policy: Policy, index: int, episodes: int = 3) -> Rollouts:
    """The same, after a while in which gradient steps can be taken."""
    time.sleep(0.02)
    return evaluate(policy, index, episodes)


@dataclass
class Memory:
    """A sink that remembers everything."""

    calls: list[tuple[int, dict[str, list[float]]]] = field(default_factory=list)
    closed: int = 0

    def log(self, metrics: Mapping[str, NDArray[Any]], step: int) -> None:
        self.calls.append((step, {name: values.tolist() for name, values in metrics.items()}))

    def close(self, pruned: str = "") -> None:
        self.closed += 1

    def by_step(self) -> dict[int, dict[str, list[float]]]:
        """The newest values of each step, without the speed."""
        return {s: {n: v for n, v in m.items() if n != "training/steps_per_second"} for s, m in self.calls}


@dataclass
class Outcome:
    """What a trial leaves behind, less the speed."""

    metrics: str
    returns: str
    state: str
    status: dict[str, Any]
    result: dict[str, float]
    sink: dict[int, dict[str, list[float]]]

    def assert_equal(self, other: "Outcome") -> None:
        for name in vars(self):
            assert getattr(self, name) == getattr(other, name), name


def exactly(state: Any) -> str:
    """A learner's state, every bit of it, as text."""
    if isinstance(state, torch.Tensor):
        return f"{state.dtype} {tuple(state.shape)} {state.numpy().tobytes().hex()}"
    if isinstance(state, dict):
        return "\n".join(f"{name}: {exactly(value)}" for name, value in sorted(state.items()))
    return "\n".join(map(exactly, state)) if isinstance(state, list) else repr(state)


@dataclass(frozen=True)
class Judge:
    """An evaluator that makes scores up."""

    evaluate: Callable[..., Rollouts]

    def __call__(self, policy: Policy, index: int, episodes: int) -> Rollouts:
        return self.evaluate(policy, index, episodes)

    def close(self) -> None:
        """There is nothing to close."""


def looped(
    config: RunConfig,
    evaluate: Callable[..., Rollouts],
    folder: RunFolder,
    sinks: Sequence[Any] = (),
    *,
    machine: Machine = CPU,
    report: Callable[[dict[str, float]], None] | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    requested_at: float | None = None,
    **more: Any,
) -> dict[str, float]:
    """The trial, evaluated by ``evaluate``; returns its last step and scores."""
    given = Assignment(config, folder, lambda: DATA, lambda _: sinks, report=report, progress=progress)
    attempt = Attempt(given, Workers())
    attempt.open()
    if attempt.error is None and not folder.done:
        with attempt.recorded():
            attempt.read()
            asked = time.time() if requested_at is None else requested_at
            watchdog = Watchdog(None, folder.trace)
            judge: Any = Judge(evaluate)
            evaluators = {"evaluators": lambda attempt, own, **helped: (judge, None)}
            Together([attempt], machine, watchdog, requested_at=asked, **evaluators | more).run()
    if attempt.error is not None:
        raise attempt.error
    return {name: folder.status[name] for name in ("step", "last", "best") if name in folder.status}


def learned(folder: RunFolder) -> str:
    """The learner of the newest checkpoint, every bit of it."""
    state, _ = folder.load_checkpoint()
    assert state is not None
    return exactly(state["learner"])


def outcome(folder: RunFolder, result: dict[str, float], sink: Memory) -> Outcome:
    metrics = (folder.path / "metrics.csv").read_text()
    assert metrics.split("\n", 1)[0].endswith(",steps_per_second")
    status = {name: folder.status[name] for name in ("state", "step", "steps", "last", "best")}
    return Outcome(
        "\n".join(line.rsplit(",", 1)[0] for line in metrics.splitlines()),
        (folder.path / "returns.csv").read_text(),
        learned(folder),
        status,
        result,
        sink.by_step(),
    )


def straight(config: RunConfig, path: Path, **arguments: Any) -> tuple[Outcome, RunFolder]:
    """The trial without any interruption."""
    folder, sink = RunFolder(path / config.key), Memory()
    arguments = {"evaluate": evaluate, "checkpoint_clock": clock()} | arguments
    result = looped(config, folder=folder, sinks=[sink], **arguments)
    return outcome(folder, result, sink), folder


def table(text: str) -> list[dict[str, str]]:
    heading, *lines = text.splitlines()
    return [dict(zip(heading.split(","), line.split(","), strict=True)) for line in lines]


class Killed(BaseException):
    """The process is gone."""


@dataclass
class Reaper:
    """Counts everything that happens in a trial and kills it at a given moment; an append may be cut short by it."""

    moment: int
    fraction: float

    def pass_by(self) -> None:
        self.moment -= 1
        if self.moment == 0:
            raise Killed

    def write(self, path: Path, content: bytes) -> None:
        self.pass_by()
        files.write_atomically(path, content)
        self.pass_by()

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            self.pass_by()
            result = function(*arguments)
            self.pass_by()
            return result

        return watched


class MortalFolder(RunFolder):
    """A run folder whose process may be killed at every write."""

    def __init__(self, path: Path, reaper: Reaper) -> None:
        super().__init__(path, reaper.write)
        self.reaper = reaper

    def _append(self, name: str, *arguments: Any) -> None:
        file = self.path / name
        before = file.stat().st_size if file.exists() else 0
        super()._append(name, *arguments)
        try:
            self.reaper.pass_by()
        except Killed:
            whole = file.read_bytes()
            file.write_bytes(whole[: before + round(self.reaper.fraction * (len(whole) - before))])
            raise


def killed_and_resumed(
    config: RunConfig,
    path: Path,
    kills: list[tuple[int, float, bool]],
    minutes: Sequence[float] = (1,),
    machine: Machine = CPU,
) -> tuple[Outcome, int]:
    """The trial with kills at the given moments, and a damaged checkpoint now and then."""
    sink, happened, checkpoint_clock = Memory(), 0, clock(minutes)
    for moment, fraction, damage in [*kills, (0, 0.0, False)]:
        reaper = Reaper(moment, fraction)
        folder, sink_log = MortalFolder(path / config.key, reaper), mock.Mock(log=reaper.wrap(sink.log))
        try:
            with mock.patch("os.fsync", return_value=None):
                result = looped(
                    config,
                    reaper.wrap(late if machine.beside else evaluate),
                    folder,
                    machine=machine,
                    sinks=[sink_log],
                    report=reaper.wrap(lambda summary: None),
                    progress=reaper.wrap(lambda status: None),
                    checkpoint_clock=checkpoint_clock,
                    status_seconds=0.0,
                )
            if moment == 0 or reaper.moment > 0:
                break
        except Killed:
            happened += 1
        saved = sorted(path.glob("*/checkpoint/step_*.pt"))
        if damage and saved and not folder.done:
            saved[-1].write_bytes(saved[-1].read_bytes()[:-100])
    return outcome(folder, result, sink), happened


REFERENCES: dict[tuple[int, int], Outcome] = {}


def reference(config: RunConfig) -> Outcome:
    key = config.log_every, config.evaluation.every
    if key not in REFERENCES:
        with tempfile.TemporaryDirectory() as path:
            REFERENCES[key] = straight(config, Path(path))[0]
    return REFERENCES[key]


def trained(path: Path, config: RunConfig = CONFIG, **arguments: Any) -> RunFolder:
    """The run folder after training the trial in this process, by default on the data of this file."""
    arguments = {"folder": RunFolder(path), "load": lambda: DATA, "machine": CPU} | arguments
    given = {field.name: arguments.pop(field.name) for field in fields(Assignment) if field.name in arguments}
    run([Assignment(config, **given)], **arguments)
    return given["folder"]


def contents(folder: RunFolder) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()}
