"""Starts sweeps, in this process or in a session of their own, and checks what they leave in MLflow."""

import bisect
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from trials import metrics
from waits import GUARD

from diffcps import cli, data
from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.runs.flags import SweepOptions
from diffcps.runs.folder import RunFolder
from diffcps.runs.plan import load
from diffcps.sweep.launch import launch
from diffcps.tasks.registry import get_task, task_of
from diffcps.training import trials
from diffcps.training.packs import fitting
from diffcps.training.process import Machine

SCRIPT = Path(__file__).parents[1] / "tune" / "sweep_d4rl.py"


@contextmanager
def isolated(home: Path) -> Iterator[None]:
    """No data set and no Ray cluster of this machine is seen, and what is collected goes to ``home``.

    Ray keeps the address of a cluster that others on the machine may join in its temporary folder. That folder's name
    must be short, for it holds sockets. Starting a cluster leaves settings in the environment (that its token is needed,
    which lies in its home) with which the next test's cluster, in another home, would not start: all of it is put back.
    What Ray keeps in this process is not: only one file of tests may run trials in it, all others start commands.
    """
    with (
        mock.patch.dict(os.environ),
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder,
    ):
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("MPLCONFIGDIR", matplotlib.get_configdir())  # its list of fonts takes seconds to make
        patch.setenv("DIFFCPS_HOME", str(home))
        patch.setenv("HOME", str(home))
        patch.delenv("DIFFCPS_DATA", raising=False)
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


def run_here(*arguments: object, **options: Any) -> int:
    """``python tune/sweep_d4rl.py`` with these arguments, in this process; returns the exit status.

    ``options`` are further arguments of ``launch``.
    """
    with pytest.raises(SystemExit) as ended:
        cli.run(SweepOptions, partial(launch, **options), [str(argument) for argument in arguments])
    return int(ended.value.code or 0)


class Session:
    """A command in a session of its own, which tells every process it starts, Ray's too, from all others."""

    def __init__(self, command: Sequence[object], log: Path) -> None:
        self.log = log
        environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [str(word) for word in command], stdout=out, stderr=out, start_new_session=True, env=environment,
                cwd=SCRIPT.parents[1],
            )  # fmt: skip

    @classmethod
    def sweep(cls, log: Path, *arguments: object) -> "Session":
        """A sweep on a Ray cluster that it starts for itself."""
        return cls([sys.executable, SCRIPT, "--address", "local", *arguments], log)

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def processes(self) -> dict[int, str]:
        """Every living process of the session: id -> what it calls itself."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.process.pid and state not in "ZX":
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except (OSError, ValueError):  # it ended while we were looking
                continue
        return found

    def called(self, name: str) -> list[int]:
        """Ids of the session's processes whose command line begins with ``name``."""
        return sorted(pid for pid, command in self.processes().items() if command.startswith(name))

    def wait_until(self, condition: Callable[[], Any], seconds: float = GUARD) -> Any:
        """The condition's first true value; fails, showing the output, when the command ends or takes too long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := condition():
                return value
            if self.process.poll() is not None:
                pytest.fail(f"the sweep ended with {self.process.returncode}:\n{self.output}")
            time.sleep(0.02)
        pytest.fail(f"waited {seconds} s in vain:\n{self.output}")

    def wait(self, seconds: float = GUARD) -> int:
        """The exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {seconds} s:\n{self.output}")

    def left_behind(self, seconds: float = GUARD) -> dict[int, str]:
        """What still lives long after the command's end."""
        end = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.1)
        return left

    def end(self) -> None:
        """End whatever of the session still lives."""
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(GUARD)


def train(config: RunConfig, root: Path, packs: int = 1) -> RunFolder:
    """The run folder of a trial, trained in this process on its own data, in so many packs, as one of those in ``root``."""
    folder, dataset = RunFolder(root / "runs" / config.key), data.load(task_of(config), config.data, ())
    memory = memory_for(config, rows=dataset.info.rows, packs=packs) if packs > 1 else None
    trials.run([trials.Assignment(config, folder, lambda: dataset)], Machine(torch.device("cpu"), memory=memory))
    return folder


def memory_for(config: RunConfig, *, rows: int, packs: int) -> int:
    """Bytes with which a worker has to train all members of a trial in so many packs."""

    def fewer(memory: int) -> int:
        try:
            return -len(fitting(config, len(config.members), task_of(config), rows=rows, memory=memory))
        except UserError:
            return -len(config.members) - 1

    sizes = range(2**30, 2**32)
    memory = sizes[bisect.bisect_left(sizes, -packs, key=fewer)]
    assert fewer(memory) == -packs
    return memory


def folders_of(sweep: Path) -> dict[str, RunFolder]:
    """The run folders of a sweep by the trial's key."""
    return {path.name: RunFolder(path) for path in sorted((sweep / "runs").iterdir())}


def training_rows(folder: RunFolder) -> pd.DataFrame:
    """``metrics.csv`` without the one column that tells time."""
    return pd.read_csv(folder.path / "metrics.csv").drop(columns="steps_per_second")


def assert_same_result(folder: RunFolder, other: RunFolder) -> None:
    """Rows, raw returns and the whole state in the final checkpoint are equal to the last bit."""
    pd.testing.assert_frame_equal(training_rows(folder), training_rows(other), check_exact=True)
    assert (folder.path / "returns.csv").read_text() == (other.path / "returns.csv").read_text()
    states = [part.load_checkpoint()[0] for part in (folder, other)]
    assert_equal(*({name: state[name] for name in ("learner", "scores")} for state in states if state))


def assert_equal(first: Any, second: Any) -> None:
    """Nested containers of tensors and numbers, equal to the last bit."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second


def runs_of(sweep: Path) -> dict[str, list[Run]]:
    """The runs of a sweep in the SQLite store beside it, by level."""
    client = MlflowClient(f"sqlite:///{sweep.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(sweep.name)
    assert experiment is not None
    levels: dict[str, list[Run]] = defaultdict(list)
    for run in client.search_runs([experiment.experiment_id], max_results=1000):
        levels[run.data.tags["level"]].append(run)
    return levels


def assert_tree(sweep: Path, status: str = "FINISHED") -> None:
    """MLflow shows what the run folders hold: one run for the sweep, for each trial and each member, each row once."""
    client = MlflowClient(f"sqlite:///{sweep.parent / 'mlflow.db'}")
    trials = [folder.config for folder in folders_of(sweep).values()]
    levels = runs_of(sweep)
    assert {level: len(runs) for level, runs in levels.items()} == {
        "sweep": 1,
        "trial": len(trials),
        "member": sum(len(trial.members) for trial in trials),
    }
    (root,) = levels["sweep"]
    assert root.info.status == status
    assert root.data.tags["mlflow.runName"] == root.data.tags["sweep"] == sweep.name
    assert root.data.tags["preset"] == load(sweep).preset
    assert "last" in root.data.tags["mlflow.note.content"]
    artifacts = {file.path for file in client.list_artifacts(root.info.run_id)}
    assert artifacts >= {"table.md", "table.csv", "sweep.json", "figures"}
    assert client.list_artifacts(root.info.run_id, "figures")
    for trial in trials:
        folder = RunFolder(sweep / "runs" / trial.key)
        (run,) = [run for run in levels["trial"] if run.data.tags["config_key"] == trial.key]
        members = [run for run in levels["member"] if run.data.tags["config_key"] == trial.key]
        members.sort(key=lambda run: int(run.data.tags["member"]))
        assert run.data.tags["mlflow.parentRunId"] == root.info.run_id
        assert run.inputs.dataset_inputs[0].dataset.name == trial.task
        for index, member in enumerate(members):
            assert member.data.tags["mlflow.parentRunId"] == run.info.run_id
            assert member.data.tags["member"] == str(index)
            assert member.data.tags["seed"] == member.data.params["seed"] == str(trial.members[index].seed)
        for shown in (run, *members):
            _assert_described(shown, trial, folder)
            assert shown.info.status == status
        _assert_histories(client, trial, folder, [run, *members])


def _assert_described(run: Run, trial: RunConfig, folder: RunFolder) -> None:
    tags, params = run.data.tags, run.data.params
    dataset = folder.environment["dataset"]
    assert tags["task"] == params["task"] == trial.task
    assert tags["diffusion_steps"] == params["diffusion_steps"] == str(trial.value("diffusion_steps"))
    for setting in ("lambda_clip", "target_kl"):
        value = trial.value(setting)
        assert float(params[setting]) == value
        assert float(tags[setting]) == pytest.approx(value, rel=1e-9)
    assert tags["profile"] == "official"
    assert tags["dataset_checksum"] == dataset["checksum"]
    assert tags["git_commit"] == folder.environment["git_commit"]
    assert params["steps"] == str(trial.steps)
    assert params["batch_size"] == str(trial.value("batch_size"))
    assert params["seeds"] == str(len(trial.members))


def _assert_histories(client: MlflowClient, trial: RunConfig, folder: RunFolder, runs: Sequence[Run]) -> None:
    """Every metric has every step once, with the values of the run folder; the trial's own run has the means."""
    rows, returns = pd.read_csv(folder.path / "metrics.csv"), pd.read_csv(folder.path / "returns.csv")
    expected = {
        f"training/{name}": rows.pivot_table(index="step", columns="member", values=name) for name in metrics(trial)
    }
    raw = returns.pivot_table(index="step", columns="member", values="return", aggfunc="mean")
    expected["evaluation/return"] = raw
    expected["score"] = get_task(trial.task).normalised_score(raw)
    expected["score"] = pd.DataFrame(expected["score"], index=raw.index)
    expected["score_best"] = expected["score"].cummax()
    for name, values in expected.items():
        table = values.to_numpy()
        for index, run in enumerate(runs):
            history = sorted(client.get_metric_history(run.info.run_id, name), key=lambda metric: metric.step)
            assert [metric.step for metric in history] == list(values.index), (name, index)
            column = table.mean(axis=1) if index == 0 else table[:, index - 1]
            np.testing.assert_allclose([metric.value for metric in history], column, rtol=1e-6, atol=1e-9)
