"""The run folder: the record of one trial, enough to rebuild every number in a table and to continue after a kill.

    <key>/config.json         the configuration
          environment.json    versions, git commit, device, data set and its checksum
          metrics.csv         step, member, seed, then every training metric (mean since the row before)
          returns.csv         step, member, seed, episode, return, length: raw, one row an episode
          measures.csv        step, member, seed, then what was measured at each evaluation; only if anything was
          afterwards.csv      the same, measured after the trial had ended; only if asked for
          samples.csv         step, member, seed, then what measures leave to look at: actions, or paths in a maze
          status.json         state, step, speed, scores so far; what a live view shows
          attempts.json       how often it was interrupted, and by what; only if it was
          stuck.txt           the stack of every thread, if nothing moved for hours
          owner               the one process that may write here
          save                empty: a checkpoint is asked for
          checkpoint/         the two newest checkpoints, each with its SHA-256

Files are replaced atomically or only appended to. ``rewind`` drops what a kill cut off.
"""

import csv
import hashlib
import io
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.files import disk_full_as_user_error, read_json, unwritable_as_user_error, write_atomically, write_json
from diffcps.runs.checkpoint import Checkpoint
from diffcps.runs.status import State, StatusFile

GROWING = "metrics.csv", "returns.csv", "measures.csv", "samples.csv"
"""Files that grow by rows while a trial is trained; the first column is the step."""
_ASKED = "save"
"""An empty file: a checkpoint is asked for."""
IDENTITY = "step", "member", "seed"
"""The first columns of every CSV."""
RETURNS = (*IDENTITY, "episode", "return", "length")


class TakenOverError(UserError):
    """Another process has claimed the run folder: this one must stop and write nothing more."""


class RunFolder:
    """Reads and writes one run folder; making the object touches nothing on disk.

    Args:
        path: the folder.
        write: replaces a file atomically.
    """

    def __init__(self, path: Path, write: Callable[[Path, bytes], None] = write_atomically) -> None:
        self.path, self._write = Path(path), write
        self._token: str | None = None

    @property
    def config(self) -> RunConfig:
        """The trial's configuration. Raises ``UserError`` when the file holds none."""
        file = self.path / "config.json"
        values = read_json(file)
        try:
            return RunConfig.from_dict(values)
        except UserError as error:
            raise UserError(f"{file}: {error}") from error

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, machine and data set; empty before the trial has started."""
        file = self.path / "environment.json"
        return read_json(file) if file.exists() else {}

    @property
    def status(self) -> StatusFile:
        """The newest status; ``{"state": "pending"}`` before the trial has started."""
        file = self.path / "status.json"
        return cast("StatusFile", read_json(file)) if file.exists() else {"state": "pending", "step": 0}

    @property
    def done(self) -> bool:
        """Whether the trial is complete, or ended early for good; after that the folder only gets ``afterwards.csv``."""
        return self.status["state"] in ("complete", "pruned")

    def fetch(self) -> None:
        """Bring the record to this machine; nothing to do for a folder that all machines see."""

    def create(self, config: RunConfig) -> None:
        """Make the folder, or check that it belongs to ``config``. Raises ``UserError`` if it belongs to another trial."""
        with unwritable_as_user_error(self.path, "Choose another results folder."):
            (self.path / "checkpoint").mkdir(parents=True, exist_ok=True)
            if not (self.path / "config.json").exists():
                write_json(self.path / "config.json", config.to_dict(), self._write)
        if self.config.key != config.key:
            raise UserError(f"{self.path} holds another trial ({self.config.key}), not {config.key}.")
        if not self.done and self.config != config:  # it keeps other things of the same trial from here on
            write_json(self.path / "config.json", config.to_dict(), self._write)

    def claim(self) -> None:
        """Claim the folder. A previous owner that is still alive gets ``TakenOverError`` on its next write.

        Claim first and ``rewind`` later: by then the previous owner's last write has ended.
        """
        self._token = f"{secrets.token_hex(8)} process {os.getpid()} on {os.uname().nodename}"
        self._replace("owner", self._token.encode())
        (self.path / _ASKED).unlink(missing_ok=True)  # the previous owner was asked

    def check_owner(self) -> None:
        """Raise ``TakenOverError`` when another process has claimed the folder since this one did."""
        if self._token is None:
            return
        try:
            owner = (self.path / "owner").read_text(encoding="utf-8")
        except FileNotFoundError:
            owner = "nobody: it was deleted"
        self._compare_owner(owner)

    def _compare_owner(self, owner: str) -> None:
        if self._token is not None and owner != self._token:
            raise TakenOverError(f"{self.path} was claimed by {owner.partition(' ')[2]}, which continues the trial.")

    @property
    def attempts(self) -> dict[str, Any]:
        """What interrupted the trial, and how often; empty if nothing did."""
        file = self.path / "attempts.json"
        return read_json(file) if file.exists() else {}

    def record_attempts(self, attempts: Mapping[str, Any]) -> None:
        """Replace ``attempts.json``."""
        self._replace("attempts.json", dict(attempts))

    @property
    def trace(self) -> Path:
        """Where a watchdog writes the stack of every thread before it ends the process."""
        return self.path / "stuck.txt"

    @property
    def stuck(self) -> str:
        """The stacks that the watchdog of the last attempt wrote; empty if it did not end that attempt."""
        return self.trace.read_text(encoding="utf-8") if self.trace.exists() else ""

    def check_data(self, checksum: str) -> None:
        """Raise ``UserError`` when the trial was started on a data set with another checksum."""
        before = self.environment.get("dataset", {}).get("checksum")
        if before is not None and before != checksum:
            raise UserError(
                f"{self.path} was started on a data set with checksum {before[:12]}…, and the one found now has "
                f"{checksum[:12]}…. Restore the first, or start again in another results folder."
            )

    def record_environment(self, environment: Mapping[str, Any]) -> None:
        """Write ``environment.json``. Raises ``UserError`` when the data differ from those of an earlier attempt."""
        old = self.environment
        self.check_data(environment["dataset"]["checksum"])
        # attempts on other code or another machine stay on record
        same = {key: old.get(key) for key in ("versions", "git_commit", "device")}
        earlier = list(old.get("earlier", []))
        if old and same != {key: environment.get(key) for key in same}:
            earlier.append(same)
        self.check_owner()
        self._replace("environment.json", dict(environment) | ({"earlier": earlier} if earlier else {}))

    def write_status(self, status: StatusFile) -> None:
        """Replace ``status.json``."""
        self.check_owner()
        self._replace("status.json", dict(status))

    def note_doing(self, what: str) -> None:
        """Note in the status what the trial does before its first step, which may take minutes; the state stays as it was."""
        self.write_status({**self.status, "doing": what, "doing_since": time.time()})

    def change_state(self, state: State) -> None:
        """Set the state in the status; everything else stays."""
        self.write_status({**self.status, "state": state, "updated": time.time()})

    def fail(self, reason: str, details: str = "") -> None:
        """Set the status to failed, with the reason; everything else stays."""
        self.write_status(
            {**self.status, "state": "failed", "error": reason, "details": details, "updated": time.time()}
        )

    def log(self, step: int, config: RunConfig, metrics: Mapping[str, NDArray[Any]], columns: Sequence[str]) -> None:
        """Append one row per member to ``metrics.csv``; ``metrics`` maps a name of ``columns`` to values ``[K]``."""
        self._append("metrics.csv", (*IDENTITY, *columns), _member_rows(step, config, metrics))

    def log_returns(self, step: int, config: RunConfig, returns: NDArray[Any], lengths: NDArray[Any]) -> None:
        """Append the raw returns and lengths ``[K, E]`` of one evaluation to ``returns.csv``."""
        rows = [
            dict(zip(RETURNS, (step, k, m.seed, e, repr(float(returns[k, e])), int(lengths[k, e])), strict=True))
            for k, m in enumerate(config.members)
            for e in range(returns.shape[1])
        ]
        self._append("returns.csv", RETURNS, rows)

    def log_measures(
        self,
        step: int,
        config: RunConfig,
        values: Mapping[str, NDArray[Any]],
        samples: Mapping[str, NDArray[Any]],
    ) -> None:
        """Append measures, ``[K]`` per column, to ``measures.csv``, and what they leave, ``[K, n]``, to ``samples.csv``."""
        if values:
            self._append("measures.csv", (*IDENTITY, *values), _member_rows(step, config, values))
        if samples:
            count = len(next(iter(samples.values()))[0])
            rows = [
                row
                for n in range(count)
                for row in _member_rows(step, config, {name: value[:, n] for name, value in samples.items()})
            ]
            self._append("samples.csv", (*IDENTITY, *samples), rows)

    def record_afterwards(self, rows: str) -> None:
        """Replace ``afterwards.csv``: what was measured of a trial that has ended, in the form of ``measures.csv``."""
        self._replace("afterwards.csv", rows.encode())

    def _replace(self, name: str, content: bytes | dict[str, Any]) -> None:
        """Replace a file. Raises ``DiskFullError`` when the disk is full."""
        file = self.path / name
        with disk_full_as_user_error(file):
            if isinstance(content, bytes):
                self._write(file, content)
            else:
                write_json(file, content, self._write)

    def _append(self, name: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows to a growing file. One that exists keeps its columns, also if another version of the code wrote them."""
        text, file, names = io.StringIO(), self.path / name, list(columns)
        if known := file.exists():
            with open(file, encoding="utf-8") as before:
                names = before.readline().strip().split(",")
        # a column that the file lacks is left out; one that the code itself does not know is an error
        lacking = set(columns) - set(names)
        writer = csv.DictWriter(
            text, names, restval="", extrasaction="ignore" if lacking else "raise", lineterminator="\n"
        )
        if not known:
            writer.writeheader()
        writer.writerows(rows)
        self.check_owner()
        with disk_full_as_user_error(file), open(file, "a", encoding="utf-8") as out:
            out.write(text.getvalue())
            out.flush()
            os.fsync(out.fileno())

    def rewind(self, step: int, evaluated: int | None = None) -> None:
        """Drop rows after ``step`` from the growing files, and any row that a kill cut short.

        If ``evaluated`` is given, what evaluations have found is dropped after that step.
        """
        self.check_owner()
        for name in GROWING:
            file = self.path / name
            if not file.exists():
                continue
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            width = lines[0].count(",") if lines else 0
            whole = [line for line in lines[1:] if line.endswith("\n") and line.count(",") == width]
            last = step if name == "metrics.csv" or evaluated is None else evaluated
            kept = [line for line in whole if int(line.split(",", 1)[0]) <= last]
            if lines and lines[0].endswith("\n") and kept:
                self._replace(name, "".join([lines[0], *kept]).encode())
            else:
                file.unlink()

    def save_checkpoint(self, state: Checkpoint, step: int) -> None:
        """Write ``state`` with its SHA-256 and keep the two newest checkpoints."""
        import torch  # takes a second, and many processes only read a trial's status

        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        content = buffer.getvalue()
        folder = self.path / "checkpoint"
        folder.mkdir(exist_ok=True)
        file = folder / f"step_{step:09d}.pt"
        self.check_owner()
        with disk_full_as_user_error(file):
            self._write(file.with_suffix(".sha256"), hashlib.sha256(content).hexdigest().encode())
            self._write(file, content)
        (self.path / _ASKED).unlink(missing_ok=True)
        # one of a later step is damaged, or this step would not be done again: it must not count among the two
        earlier = sorted(old for old in folder.glob("step_*.pt") if old.name < file.name)
        kept = {file, *earlier[-1:]}
        for other in (*folder.glob("step_*.*"), *folder.glob(".*.tmp")):
            if other.with_suffix(".pt") not in kept:
                other.unlink()

    @property
    def checkpoint_steps(self) -> set[int]:
        """The steps of the checkpoints, whole or damaged."""
        return {int(file.stem.partition("_")[2]) for file in (self.path / "checkpoint").glob("step_*.pt")}

    def drop_checkpoints(self, after: int) -> None:
        """Delete the checkpoints of later steps."""
        self.check_owner()
        for step in self.checkpoint_steps:
            if step > after:
                (self.path / "checkpoint" / f"step_{step:09d}.pt").unlink()

    def ask_to_save(self) -> bool:
        """Ask whoever trains the trial, on any machine that sees this folder, for a checkpoint within seconds, if that can be.

        Returns whether the request could be written.
        """
        try:
            (self.path / _ASKED).touch()
        except OSError:
            return False
        return True

    @property
    def asked_to_save(self) -> bool:
        """Whether a checkpoint was asked for; the next one answers it."""
        return (self.path / _ASKED).exists()

    def load_checkpoint(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest undamaged checkpoint, or ``None``, and a sentence for each damaged one."""
        import torch

        complaints: list[str] = []
        for file in sorted((self.path / "checkpoint").glob("step_*.pt"), reverse=True):
            content = file.read_bytes()
            expected = file.with_suffix(".sha256")
            if not expected.exists() or hashlib.sha256(content).hexdigest().encode() != expected.read_bytes():
                complaints.append(f"checkpoint {file} does not match its checksum: it is ignored.")
                continue
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), complaints
        return None, complaints


def _member_rows(step: int, config: RunConfig, values: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """One row per member, of values ``[K]``."""
    return [
        {"step": step, "member": k, "seed": member.seed, **{name: repr(float(v[k])) for name, v in values.items()}}
        for k, member in enumerate(config.members)
    ]


def last_and_best(scores: NDArray[np.float64]) -> tuple[float, float]:
    """(last, best) of scores ``[evaluations, K]``: the mean over members of each one's last and highest score."""
    # fmax ignores evaluations of a diverged policy, whose score is NaN
    return float(scores[-1].mean()), float(np.fmax.reduce(scores, axis=0).mean())
