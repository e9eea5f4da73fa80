"""``diffcps train``: one trial in this process."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.status import Status

from diffcps.algorithms.settings import Precision
from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.files import is_url


@dataclass(frozen=True)
class Train:
    """Train one task in this process, without Ray or MLflow; the same command again continues where it stopped."""

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    """Name of the task; ``diffcps data list`` shows those that there are."""
    preset: Literal["paper", "demo"] = "paper"
    """``paper``: full length and the paper's hyper-parameters; ``demo``: minutes."""
    seeds: int | None = None
    """Seeds, trained together as one pack; by default the preset's number."""
    steps: int | None = None
    """Gradient steps; by default the preset's number."""
    profile: str | None = None
    """``official``: what the paper's released program does. ``principled``: calibrated covariance and κ, projected λ."""
    precision: Precision | None = None
    """``fp32`` (as the paper), or ``bf16``: hidden layers' products in bfloat16, faster and coarser."""
    data: Annotated[str | None, tyro.conf.arg(metavar="SOURCE")] = None
    """Source of the data, by default the task's first; ``diffcps data list`` shows every task's sources."""
    data_dir: tuple[Path, ...] = ()
    """Folders with D4RL HDF5 files or Minari data sets, searched first."""
    rows: int | None = None
    """Transitions to collect (collected data only); by default as many as D4RL's own data set has."""
    physics: Literal["d4rl", "modern"] | None = None
    """Body masses at evaluation: those D4RL was recorded with, or today's."""
    measures: tuple[str, ...] = ()
    """What to measure of each policy besides its score, at every evaluation: ``density``, ``samples``, ``likelihood``,
    ``acting``."""
    results: Path = Path("results")
    """The run folder is made under its ``single`` folder."""

    def __call__(self) -> None:
        """Run it."""
        if is_url(str(self.results)) or str(self.results).startswith("s3:"):
            raise UserError(
                "--results: a single trial keeps its folder on this machine. For an object store run a sweep."
            )
        from diffcps import data
        from diffcps.runs.folder import RunFolder
        from diffcps.tasks.registry import task_of
        from diffcps.training import trial as trials

        config, console = self._config(), Console()
        task, directories = task_of(config), tuple(folder.resolve() for folder in self.data_dir)
        if reason := data.missing([(task, config.data)], directories):
            raise UserError(reason)
        folder = RunFolder(self.results.resolve() / "single" / "runs" / config.key)
        folder.check_data(_read(config, directories, console))
        if folder.complete:
            console.print("this trial is complete already", highlight=False)
        with console.status(f"starting {config.key}") as status:
            trials.run(
                config,
                folder,
                functools.partial(data.load, task, config.data, directories),
                trials.Machine.prepared(),
                report=functools.partial(_report, console),
                progress=functools.partial(_show, status, config.task),
            )
        console.print(f"run folder: {folder.path}", soft_wrap=True, highlight=False)

    def _config(self) -> RunConfig:
        """The trial that the flags describe."""
        from diffcps.sweep.options import SweepOptions
        from diffcps.sweep.plan import build

        options = SweepOptions(
            preset=self.preset, tasks=(self.task,), seeds=self.seeds, steps=self.steps, data=self.data,
            data_dir=self.data_dir, rows=self.rows, physics=self.physics, precision=self.precision, profile=self.profile,
            measures=self.measures,
        )  # fmt: skip
        (config,) = build(options).trials
        return config


def _show(status: Status, task: str, values: dict[str, Any]) -> None:
    """Show how far the trial is."""
    scores = f" · last {values['last']:.1f}, best {values['best']:.1f}" if "last" in values else ""
    speed = f"{values['step']:,}/{values['steps']:,} steps, {values['steps_per_second']:.1f}/s"
    status.update(f"{task}: {speed}{scores}")


def _report(console: Console, scores: dict[str, float]) -> None:
    """Print the scores of an evaluation."""
    best = f"mean of each seed's best so far {scores['best']:.1f}"
    console.print(f"step {scores['step']:,}: score {scores['score']:.1f}, {best}")


def _read(config: RunConfig, directories: tuple[Path, ...], console: Console) -> str:
    """Read, or collect, the data and print what they are; returns their checksum."""
    from diffcps import data
    from diffcps.tasks.registry import task_of

    with console.status("reading the data") as status:

        def show(done: int, rows: int) -> None:
            status.update(f"collecting data: {done:,} of {rows:,} rows, {100 * done // rows} %")

        if data.library.source(config.data.source).rows(task_of(config)) is not None:
            console.print(f"data: collected here, {config.data.rows:,} rows", highlight=False)
        info = data.load(task_of(config), config.data, directories, show).info
    console.print(f"data: {info.rows:,} rows from {info.path}", soft_wrap=True, highlight=False)
    console.print(info.provenance_note, soft_wrap=True, highlight=False)
    return info.checksum
