"""`diffcps study` and `diffcps toy`: from flags to the page of a study."""

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.markdown import Markdown

from diffcps import studies
from diffcps.config import Physics
from diffcps.runs.flags import LaunchFlags, Several
from diffcps.studies.study import Scale
from diffcps.text import say

if TYPE_CHECKING:
    from diffcps.studies.study import Study


@dataclass(frozen=True)
class _Flags(LaunchFlags, Scale):
    """How large a study is run, and where."""


@dataclass(frozen=True)
class StudyCommand(_Flags):
    """Run a study of an open question, and write its figures, tables and findings.

    Run the same command again to resume a study.
    """

    name: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(metavar="NAME", help=f"Name of the study: {', '.join(studies.NAMES)}; see docs/studies.md."),
    ] = tyro.MISSING

    def __call__(self) -> int:
        """Run it."""
        return run_study(studies.get(self.name), self)


@dataclass(frozen=True)
class Toy(_Flags):
    """Run the paper's toy experiment: which policies stay on a ring of data, for different T?

    It compares DiffCPS in the profiles official and principled, Diffusion-QL, behaviour cloning with a diffusion policy, and
    weighted cloning with a Gaussian policy.
    """

    tasks: Annotated[Several[str], tyro.conf.arg(metavar="TASK ...")] = ()
    """Bandits, with or without `bandit-`. Default: the ring."""
    diffusion_steps: Several[int] = ()
    """T, the numbers of diffusion steps to compare."""
    # flags of studies that have locomotion tasks
    hidden_size: tyro.conf.Suppress[int | None] = None
    batch_size: tyro.conf.Suppress[int | None] = None
    data: tyro.conf.Suppress[str] = "collected"
    physics: tyro.conf.Suppress[Physics | None] = None

    def __call__(self) -> int:
        """Run it."""
        return run_study(studies.get("toy"), self)


def run_study(study: "Study", where: _Flags) -> int:
    """Run a study through Ray, Optuna and MLflow, and show its page. Returns the exit status of its sweep."""
    from diffcps.runs.flags import SweepOptions
    from diffcps.runs.plan import Plan
    from diffcps.studies.results import Results
    from diffcps.studies.study import write
    from diffcps.sweep.launch import launch

    console = Console()
    trials = study.trials(where)
    digest = hashlib.sha256(json.dumps([trial.key for trial in trials]).encode()).hexdigest()[:6]
    plan = Plan(f"{study.name}{'-quick' if where.quick else ''}-{digest}", "study", trials)
    options = SweepOptions(**{flag.name: getattr(where, flag.name) for flag in fields(LaunchFlags)})

    def finish(folder: Path) -> list[Path]:
        results = Results.read(folder)
        if not results.trials:
            return []
        made = write(study, results, folder)
        text = (folder / "study.md").read_text(encoding="utf-8")
        console.print(Markdown("\n".join(line for line in text.splitlines() if not line.startswith("!["))))
        pages.append(folder / "study.md")
        return made

    pages: list[Path] = []
    status = launch(options, console, plan, finish)
    if pages and where.quick:
        console.print("A quick run shows that the study works; it is too short to conclude anything from its numbers.")
    for page in pages:
        say(console, f"study: {page}")
    return status
