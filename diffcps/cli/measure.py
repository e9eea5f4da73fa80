"""`diffcps measure`: measures of trained policies."""

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from diffcps.cli.report import located
from diffcps.errors import UserError
from diffcps.runs.flags import DataFlags
from diffcps.text import counted, listed, say
from diffcps.training.measures import MEASURES

if TYPE_CHECKING:
    from rich.status import Status

    from diffcps.config import Member
    from diffcps.runs.trial import Trial

SOME_FAILED = 1


def _of(pictures: bool) -> str:
    """The measures that are pictures alone, or the others, in a list."""
    return ", ".join(name for name, measure in MEASURES.items() if measure.only_picture == pictures)


@dataclass(frozen=True)
class MeasureCommand(DataFlags):
    """Measure the trained policies of a sweep or of one run folder, as --measures does in training.

    Measures the final policies of complete trials, and those kept by --keep-checkpoints, where the measure fits and is missing.
    The numbers are written into the run folders, beside those of training: `diffcps select`, `diffcps report` and
    `load_sweep` show them. The trials' data must be on this machine. Run the same command again to continue.
    """

    sweep: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SWEEP")]
    """Name of a sweep in the results folder, the path of its folder, or a run folder."""
    measures: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(
            metavar="NAME ...",
            help_behavior_hint="",
            help=f"One or more of {_of(False)}; see docs/studies.md. Pictures ({_of(True)}) are made in training only.",
        ),
    ]
    results: Annotated[str, tyro.conf.arg(metavar="PLACE")] = "results"
    """Folder of the sweeps."""

    def __call__(self) -> int:
        """Run it. Returns the exit status: 1 where a trial could not be measured."""
        from diffcps import data
        from diffcps.deploy.measuring import measure
        from diffcps.training.process import prepare_process

        console, trials = Console(), self._lacking()  # each with what it lacks
        if reason := data.missing([(trial.task, trial.config.data) for trial, _ in trials], self.directories):
            raise UserError(reason)
        prepare_process(1)  # the arithmetic of training
        trials.sort(key=lambda one: (one[0].task.name, str(one[0].config.data)))  # a data set is loaded once
        load = lru_cache(maxsize=1)(lambda task, config: data.load(task, config, self.directories))
        failed = 0
        for number, (trial, lacking) in enumerate(trials, start=1):
            title = f"{number} of {len(trials)}: {trial.key}"
            with console.status(title) as status:
                try:
                    steps = measure(
                        trial, lacking, load(trial.task, trial.config.data), partial(_told, status=status, title=title)
                    )
                except UserError as error:
                    failed += 1
                    say(console, f"{trial.key} was not measured: {error}")
                    continue
            where = f"at step {listed([f'{s:,}' for s in steps], 3)}" if steps else "was measured already"
            say(console, f"{trial.key}: {', '.join(lacking)} of each seed {where}")
        return SOME_FAILED if failed else 0

    def _lacking(self) -> "list[tuple[Trial, dict[str, list[int]]]]":
        """The complete trials that lack measures, each with these (`measuring.missing`); says which trials do not fit.

        Raises `UserError` where none fits.
        """
        from diffcps.deploy.measuring import missing

        console, found, misfits = Console(), [], []
        complete = self._complete()
        for trial in complete:
            try:
                if lacking := missing(trial, self.measures):
                    found.append((trial, lacking))
            except UserError as error:
                misfits.append(error)
        if len(misfits) == len(complete):
            raise misfits[0]
        if misfits:
            say(console, f"{counted(len(misfits), 'trial')} left out: {misfits[0]}")
        if not found:
            say(console, "all kept policies have these measures")
        return found

    def _complete(self) -> "list[Trial]":
        """The complete trials that are named. Raises `UserError` where there is none."""
        from diffcps.runs.read import collect

        if not self.measures:
            raise UserError("no measure was named: for example diffcps measure SWEEP fqe critic.")
        if "://" in self.results:
            raise UserError(f"{self.results}: only run folders on this machine can be measured. Copy the sweep here.")
        folder = Path(self.sweep).expanduser()
        sweep = collect(folder if (folder / "config.json").exists() else located(self.sweep, self.results).folder)
        complete = [trial for trial in sweep.known if trial.state == "complete"]
        if not complete:
            raise UserError(f"{self.sweep} has no complete trial: train one to its end, or resume the sweep.")
        return complete


def _told(step: int, member: "Member", status: "Status", title: str) -> None:
    """Say what is being measured."""
    status.update(f"{title}, step {step:,}, seed {member.seed}")
