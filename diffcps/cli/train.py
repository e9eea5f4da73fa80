"""``diffcps train``: one trial in this process."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console

from diffcps.config import DataSource, Precision
from diffcps.errors import UserError


@dataclass(frozen=True)
class Train:
    """Train one task in this process, without Ray or MLflow; starting it again goes on where it stopped."""

    task: tyro.conf.Positional[str]
    """Name of the task."""
    preset: Literal["paper", "demo"] = "paper"
    """``paper``: full length and the paper's hyper-parameters; ``demo``: minutes."""
    seeds: int | None = None
    """Seeds, trained together as one pack."""
    steps: int | None = None
    """Gradient steps."""
    precision: Precision | None = None
    """``fp32`` (as the paper), or ``bf16``: hidden layers' products in bfloat16, faster and coarser."""
    data: DataSource | None = None
    """``d4rl``: the D4RL HDF5 file. ``minari``: a Minari data set, imported or its own. ``collected``: data collected here."""
    data_dir: tuple[Path, ...] = ()
    """Folders with D4RL HDF5 files or Minari data sets, searched first."""
    physics: Literal["d4rl", "modern"] | None = None
    """Body masses at evaluation: those D4RL was recorded with, or today's."""
    results: Path = Path("results")
    """The run folder is made under its ``single`` folder."""

    def __call__(self) -> None:
        """Run it."""
        import torch

        from diffcps import compute, data
        from diffcps.distributed.options import SweepOptions
        from diffcps.distributed.place import Place
        from diffcps.distributed.plan import build
        from diffcps.distributed.worker import run_trial
        from diffcps.tasks import task_of

        options = SweepOptions(
            preset=self.preset, tasks=(self.task,), seeds=self.seeds, steps=self.steps, data=self.data,
            data_dir=self.data_dir, physics=self.physics, precision=self.precision,
        )  # fmt: skip
        (config,) = build(options).trials
        if reason := data.missing([(task_of(config), config.data)], self.data_dir):
            raise UserError(reason)
        place = Place(self.results.resolve() / "single", tuple(folder.resolve() for folder in self.data_dir))
        console = Console()
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
            compute.prepare(threads, device)
            run_trial(config, place, device, report, show, threads=threads)
        console.print(f"run folder: {place.run_folder(config).path}", soft_wrap=True, highlight=False)
