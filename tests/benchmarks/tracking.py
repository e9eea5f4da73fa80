"""What an MLflow store bears: many trials at once, each logging through a sink of its own, and every value looked up after.

python -m tests.benchmarks.tracking                        # 32 trials of 5 seeds, a SQLite file
python -m tests.benchmarks.tracking --server               # the same through `mlflow server` on loopback, over SQLite
python -m tests.benchmarks.tracking --pause 0              # as fast as the store takes them

A row is a trial's 28 or so metrics for the mean and for each seed: with five seeds, six requests.
"""

import json
import logging
import math
import multiprocessing
import os
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import run_folders
import tyro

from diffcps.config import RunConfig
from diffcps.files import write_json
from diffcps.tracking import MlflowSink, Tracker, check, default_uri
from diffcps.tracking.labels import Row
from diffcps.tracking.sink import Pace

SWEEP = "writers"


@dataclass(frozen=True)
class Options:
    """Log from many processes at once and verify what the store holds."""

    writers: int = 32
    """Processes, each with a trial."""
    seeds: int = 5
    """Members of a trial."""
    rows: int = 15
    """Rows that each trial logs."""
    pause: float = 4.0
    """Seconds between two rows of a trial; 0: the next goes out as soon as the store has taken the one before."""
    server: bool = False
    """Through a server rather than into the file."""
    json: Path | None = None
    """Write the figures here."""


@dataclass(frozen=True)
class Figures:
    """What was measured."""

    writers: int
    store: str
    seconds: float
    """From the first trial's first row to the last trial's end."""
    values: int
    """That the trials logged."""
    missing: int
    """Of them, those that the store lacks or has wrong after the trials' ends."""
    double: int
    """Values that are there more than once."""
    unsent: int
    """Rows that a trial's end gave up waiting for; the sweep's end would send them."""
    refused: int
    """Sendings that the store refused, and that were tried again."""
    warnings: tuple[str, ...]
    """Different messages that a person would have seen."""
    opening: float
    """Mean seconds in which a trial found or made its runs."""
    opening_most: float
    sending: float
    """Mean seconds of sending one row to all of a trial's runs."""
    sending_most: float
    held_up: float
    """Most seconds that a trial itself spent in one ``log``."""
    values_per_second: float


class Watched(Tracker):
    """Takes the time of what is asked of the store."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri, SWEEP)
        self.opened: list[float] = []
        self.sent: list[float] = []
        self.refused = 0

    def trial_runs(self, config: RunConfig, environment: Any) -> list[str]:
        begun = time.perf_counter()
        try:
            runs = super().trial_runs(config, environment)
        except Exception:
            self.refused += 1
            raise
        self.opened.append(time.perf_counter() - begun)
        return runs

    def send(self, runs: Sequence[str], rows: Sequence[Row]) -> None:
        begun = time.perf_counter()
        try:
            super().send(runs, rows)
        except Exception:
            self.refused += 1
            raise
        if rows:
            self.sent.append((time.perf_counter() - begun) / len(rows))


def write(uri: str, index: int, options: Options, results: Any) -> None:
    """One trial, in a process of its own."""
    seen: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    config, tracker = _config(index, options), Watched(uri)
    pace = Pace() if options.pause else Pace(send=0.0)
    target = MlflowSink(tracker, config, run_folders.environment(config), pace=pace)
    longest, begun = 0.0, time.time()
    for row in range(options.rows):
        values = _values(config, row)
        asked = time.perf_counter()
        target.log(values, _step(row))
        longest = max(longest, time.perf_counter() - asked)
        time.sleep(options.pause)
        while not options.pause and len(tracker.sent) <= row and not seen:
            time.sleep(0.001)
    unsent = target.close()
    results.put((tracker.opened, tracker.sent, tracker.refused, seen, unsent, longest, begun, time.time()))


def measure(options: Options, root: Path) -> Figures:
    """Run the writers on a new store in ``root``."""
    context = multiprocessing.get_context("fork")  # MLflow, which takes seconds to import, is there already
    with _store(options, root) as (uri, database):
        results = context.Queue()
        writers = [
            context.Process(target=write, args=(uri, index, options, results)) for index in range(options.writers)
        ]
        for writer in writers:
            writer.start()
        found = [results.get(timeout=600) for _ in writers]
        for writer in writers:
            writer.join()
        missing, double, values = _verify(database, options)
    opened, sent, refused, seen, unsent, held, begun, ended = zip(*found, strict=True)
    opening, sending = ([t for times in column for t in times] or [math.nan] for column in (opened, sent))
    seconds = max(ended) - min(begun)
    return Figures(
        options.writers, "server" if options.server else "SQLite", seconds, values, missing, double, sum(unsent),
        sum(refused), tuple(sorted({text.partition(": ")[2][:200] for texts in seen for text in texts})),
        statistics.fmean(opening), max(opening), statistics.fmean(sending), max(sending), max(held), values / seconds,
    )  # fmt: skip


@contextmanager
def _store(options: Options, root: Path) -> Iterator[tuple[str, Path]]:
    """A new store: its address, and the database in which it keeps everything."""
    uri = check(default_uri(root))
    database = root / "mlflow.db"
    Tracker(uri, SWEEP).sweep_run()
    if not options.server:
        yield uri, database
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", uri, "--artifacts-destination", str(root / "artifacts")]
    quiet = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (root / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=quiet, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        while not _answers(address):
            time.sleep(0.2)
        yield check(address), database
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2):
            return True
    except OSError:
        return False


def _verify(database: Path, options: Options) -> tuple[int, int, int]:
    """(missing or wrong, double, logged) values."""
    expected = {}
    for index in range(options.writers):
        config = _config(index, options)
        for number in range(options.rows):
            row = Row(_step(number), 0, {name: np.asarray(v) for name, v in _values(config, number).items()})
            for member in ("", *map(str, range(options.seeds))):
                for metric in row.metrics(int(member) + 1 if member else 0):
                    expected[config.key, member, metric.key, metric.step] = metric.value
    query = """
        SELECT k.value, m.value, metrics.key, metrics.step, metrics.value FROM metrics
        JOIN tags k ON k.run_uuid = metrics.run_uuid AND k.key = 'config_key'
        JOIN tags m ON m.run_uuid = metrics.run_uuid AND m.key = 'member'"""
    with sqlite3.connect(database) as connection:
        rows = connection.execute(query).fetchall()
    found = {tuple(row[:4]): row[4] for row in rows}
    missing = sum(found.get(key) != value for key, value in expected.items())
    return missing, len(rows) - len(found), len(expected)


def _config(index: int, options: Options) -> RunConfig:
    return run_folders.config(seeds=options.seeds, target_kl=0.01 + 1e-3 * index)


def _step(row: int) -> int:
    return (row + 1) * run_folders.ROW


def _values(config: RunConfig, row: int) -> dict[str, Any]:
    return {f"training/{name}": value for name, value in run_folders.row(config, _step(row)).items()}


def main(options: Options) -> None:
    """Measure and print."""
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  before the writers are forked

    with tempfile.TemporaryDirectory(prefix="diffcps-") as folder:
        found = asdict(measure(options, Path(folder)))
    print(json.dumps(found, indent=2))
    if options.json:
        write_json(options.json, found)


if __name__ == "__main__":
    main(tyro.cli(Options))
