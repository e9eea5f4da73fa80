"""``diffcps train``: one trial in this process."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from diffcps.algorithms.settings import Precision
from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.storage.remote import is_url

if TYPE_CHECKING:
    from diffcps.storage.place import Place


@dataclass(frozen=True)
class Train:
    """Train one task in this process, without Ray or MLflow; starting it again goes on where it stopped."""

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
    results: Path = Path("results")
    """The run folder is made under its ``single`` folder."""

    def __call__(self) -> None:
        """Run it."""
        if is_url(str(self.results)) or str(self.results).startswith("s3:"):
            raise UserError(
                "--results: a single trial keeps its folder on this machine. For an object store run a sweep."
            )
        import torch

        from diffcps import data
        from diffcps.storage.place import Place
        from diffcps.sweep.options import SweepOptions
        from diffcps.sweep.plan import build
        from diffcps.sweep.worker import run_trial
        from diffcps.tasks.registry import task_of
        from diffcps.training import cost

        options = SweepOptions(
            preset=self.preset, tasks=(self.task,), seeds=self.seeds, steps=self.steps, data=self.data,
            data_dir=self.data_dir, rows=self.rows, physics=self.physics, precision=self.precision, profile=self.profile,
        )  # fmt: skip
        (config,) = build(options).trials
        if reason := data.missing([(task_of(config), config.data)], self.data_dir):
            raise UserError(reason)
        place = Place(self.results.resolve() / "single", tuple(folder.resolve() for folder in self.data_dir))
        console = Console()
        _check_data(config, place, console)
        if place.run_folder(config).complete:
            console.print("this trial is complete already", highlight=False)
        with console.status(f"starting {config.key}") as status:

            def show(values: dict[str, Any]) -> None:
                scores = f" · last {values['last']:.1f}, best {values['best']:.1f}" if "last" in values else ""
                speed = f"{values['step']:,}/{values['steps']:,} steps, {values['steps_per_second']:.1f}/s"
                status.update(f"{config.task}: {speed}{scores}")

            def report(scores: dict[str, float]) -> None:
                console.print(
                    f"step {scores['step']:,}: score {scores['score']:.1f}, mean of each seed's best so far {scores['best']:.1f}"
                )

            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            threads = torch.get_num_threads()
            cost.prepare(threads, device)
            run_trial(config, place, device, report, show, threads=threads)
        console.print(f"run folder: {place.run_folder(config).path}", soft_wrap=True, highlight=False)


def _check_data(config: RunConfig, place: "Place", console: Console) -> None:
    """Read, or collect, the data and say what they are; refuses other data than the trial was started on."""
    from diffcps import data
    from diffcps.tasks.registry import task_of

    with console.status("reading the data") as status:

        def show(done: int, rows: int) -> None:
            status.update(f"collecting data: {done:,} of {rows:,} rows, {100 * done // rows} %")

        if data.library.source(config.data.source).rows(task_of(config)) is not None:
            console.print(f"data: collected here, {config.data.rows:,} rows", highlight=False)
        info = data.load(task_of(config), config.data, place.data_directories, show).info
    console.print(f"data: {info.rows:,} rows from {info.path}", soft_wrap=True, highlight=False)
    console.print(info.provenance_note, soft_wrap=True, highlight=False)
    place.run_folder(config).check_data(info.checksum)
