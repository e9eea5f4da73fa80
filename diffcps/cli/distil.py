"""`diffcps distil`: a one-step student for a policy that was trained without one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from diffcps.cli.policies import PolicyFlags, bar
from diffcps.errors import UserError
from diffcps.runs.flags import DataFlags
from diffcps.text import say


@dataclass(frozen=True)
class Distil(DataFlags, PolicyFlags):
    """Train a one-step network to imitate a trained diffusion policy, and save both in a folder.

    It learns from the policy, on the states of its data set, which must be on this machine. If the algorithm has the setting
    `student_value`, the student also raises the critic's value. `evaluate`, `export` and `latency` read the folder; `--actor
    student` lets the student act. Algorithms with an averaged policy can also train one together with it
    (`--student one-step`); see docs/policies.md.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")] = tyro.MISSING
    """Folder for the files. It is created if it does not exist."""
    gradient_steps: int = 20_000
    """Gradient steps of the student."""

    def __call__(self) -> None:
        """Run it."""
        if self.gradient_steps < 1:
            raise UserError(f"--gradient-steps {self.gradient_steps}: at least one.")
        console = Console()
        policy = self.found()[0]
        from diffcps import data
        from diffcps.deploy.distil import distil
        from diffcps.tasks.registry import task_of

        run = policy.card.run
        if reason := data.missing([(task_of(run), run.data)], self.directories):
            raise UserError(reason)
        dataset = data.load(task_of(run), run.data, self.directories)
        _check_data(policy.card.dataset.get("checksum"), dataset.info.checksum, dataset.info.path)
        with bar(console, "distilling", self.gradient_steps) as update:

            def show(step: int, distance: float) -> None:
                update(completed=step, description=f"squared distance {distance:.2g}")

            found = distil(policy, dataset, self.gradient_steps, progress=show)
        found.policy.save(self.folder)
        say(console, f"{run.task}, {run.algorithm}, seed {policy.card.seed}: {self.folder}")
        say(console, f"squared distance to the chain's actions: {found.distance:.2g}, in units of the action bound")
        say(console, f"its scores: diffcps evaluate {self.folder} --actor student")


def _check_data(known: object, found: str, path: object) -> None:
    """Raise ``UserError`` where these are not the data that the policy has learned from."""
    if isinstance(known, str) and known != found:
        raise UserError(
            f"{path or 'the data set'} has checksum {found[:12]}…, and the policy has learned from one with {known[:12]}…. "
            "Name the folder of those data with --data-dir."
        )
