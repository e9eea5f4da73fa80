"""The command line: flags come from dataclasses, mistakes end in a sentence and not in a traceback."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from rich.console import Console

from diffcps.config import Precision
from diffcps.errors import UserError

USER_MISTAKE, INTERRUPTED = 2, 130
Options = TypeVar("Options")


def run(
    options: type[Options],
    command: Callable[[Options], int | None],
    arguments: Sequence[str] | None = None,
    description: str | None = None,
) -> None:
    """Parse the command line into ``options``, run ``command`` on it and exit with its status.

    A ``UserError`` prints its message and exits with 2, Ctrl-C with 130; any other exception is a defect of ours and
    keeps its traceback.
    """
    console = Console(stderr=True)
    try:
        parsed = tyro.cli(options, args=arguments, description=description, config=(tyro.conf.OmitSubcommandPrefixes,))
        sys.exit(command(parsed) or 0)
    except UserError as error:
        console.print("[bold red]error:[/] ", end="")
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(USER_MISTAKE)
    except KeyboardInterrupt:
        console.print("[yellow]interrupted[/]; the same command goes on where it stopped.")
        sys.exit(INTERRUPTED)


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
    data: Literal["d4rl", "collected"] | None = None
    """``d4rl``: the D4RL HDF5 file. ``collected``: data collected here."""
    data_dir: tuple[Path, ...] = ()
    """Folders with D4RL HDF5 files, searched first."""
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
        from diffcps.tasks import get_task

        options = SweepOptions(
            preset=self.preset, tasks=(self.task,), seeds=self.seeds, steps=self.steps, data=self.data,
            data_dir=self.data_dir, physics=self.physics, precision=self.precision,
        )  # fmt: skip
        (config,) = build(options).trials
        if reason := data.missing([(get_task(config.task), config.data)], self.data_dir):
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


@dataclass(frozen=True)
class Report:
    """Print the table of a sweep and write it, with its figures, into the sweep's folder."""

    sweep: tyro.conf.Positional[str]
    """Name of a sweep in the results folder, or the path of its folder."""
    results: Path = Path("results")
    """Folder that holds the sweeps."""

    def __call__(self) -> None:
        """Run it."""
        from diffcps import report

        folder = Path(self.sweep) if (Path(self.sweep) / "runs").is_dir() else self.results / self.sweep
        if not (folder / "runs").is_dir():
            known = ", ".join(sorted(file.parent.name for file in self.results.glob("*/runs"))) or "none"
            raise UserError(f"no sweep is called {self.sweep!r} in {self.results}, which holds: {known}.")
        built = report.build(folder)
        built.write()
        built.print(Console())


@dataclass(frozen=True)
class ListData:
    """Every task, where its data can come from, and what is here."""

    data_dir: tuple[Path, ...] = ()
    """Folders with D4RL HDF5 files, searched first."""

    def __call__(self) -> None:
        """Run it."""
        from rich.table import Column, Table

        from diffcps.data import store
        from diffcps.tasks import TASKS

        table = Table(Column("task", no_wrap=True), "sources", Column("here", overflow="fold"), box=None)
        for task in TASKS.values():
            found = store.find(task, self.data_dir) if task.d4rl_file else None
            here = [str(found)] if found else [f"needs {task.d4rl_file}"] if task.sources == ("d4rl",) else []
            collected = sorted(store.collected_root().rglob(f"{task.name}-collected-*"))
            here += [path.name for path in collected if (path / "data").is_dir()]
            table.add_row(task.name, ", ".join(task.sources), "\n".join(here) or "–")
        Console().print(table)


@dataclass(frozen=True)
class CollectData:
    """Collect a data set with the behaviour policies that ship with the project (sweeps do this by themselves)."""

    task: tyro.conf.Positional[str]
    """Name of a task that offers collected data."""
    rows: int = 50_000
    """Transitions."""
    seed: int = 0
    """Seed of the collection."""

    def __call__(self) -> None:
        """Run it."""
        from diffcps import data
        from diffcps.config import DataConfig
        from diffcps.tasks import get_task

        info = data.load(get_task(self.task), DataConfig("collected", self.rows, self.seed), ()).info
        mean = (
            f"return {info.returns.mean():.4g} ± {info.returns.std():.3g}" if len(info.returns) else "no whole episode"
        )
        print(f"{info.path}: {info.rows:,} rows, {info.trajectories:,} trajectories, {mean}")


@dataclass(frozen=True)
class TrainPolicy:
    """Train a behaviour policy like those that ship with the project (needs ``pip install 'diffcps[behaviour]'``)."""

    environment: tyro.conf.Positional[Literal["hopper", "halfcheetah", "walker2d"]]
    """Which robot."""
    output: Path
    """Folder for the weights and the facts about them."""
    steps: int = 1_500_000
    """Most environment steps."""
    seed: int = 0
    """Seed of the training."""
    target_score: float | None = None
    """Normalised score at which it stops; by default the medium level of the shipped policy."""

    def __call__(self) -> None:
        """Run it."""
        from diffcps.data import behaviour

        print(behaviour.train(self.environment, self.output, self.steps, self.seed, self.target_score))


_Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[
        Annotated[ListData, tyro.conf.subcommand("list")]
        | Annotated[CollectData, tyro.conf.subcommand("collect")]
        | Annotated[TrainPolicy, tyro.conf.subcommand("train-policy")],
        tyro.conf.subcommand("data", description="List and collect data sets."),
    ]
)


def main() -> None:
    """The ``diffcps`` command."""
    run(_Command, lambda command: command(), description="DiffCPS: offline reinforcement learning, and its tools.")  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
