"""`diffcps select`: the policy that a criterion without an environment would deploy, and how much to believe it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from diffcps.cli.report import located
from diffcps.errors import UserError
from diffcps.files import is_url
from diffcps.runs.criteria import CRITERIA
from diffcps.runs.flags import Maybe
from diffcps.text import say, terminal_table

if TYPE_CHECKING:
    from diffcps.report.selection import Candidate
    from diffcps.runs.read import Sweep

_KNOWN = [f"{name} ({'measure ' + c.needs if c.needs else 'no measure'})" for name, c in CRITERIA.items()]
_HELP = f"What to choose by, and the measure that it needs: {', '.join(_KNOWN)}. Default: compare all of them."


@dataclass(frozen=True)
class Select:
    """Choose a policy of a sweep without an environment.

    With --by: prints for each task the policies in the order of that criterion, the one to deploy, and how well the criterion
    ranks policies with known scores. Without: how well every criterion ranks them. Measures are taken in training
    (--measures) or afterwards (diffcps measure). Errors on held-out data need --hold-out in training.
    """

    sweep: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SWEEP")]
    """Name of a sweep in the results folder, or the path of its folder."""
    by: Annotated[Maybe[str], tyro.conf.arg(metavar="CRITERION", help=_HELP)] = None
    register: bool = False
    """Let the alias @best-offline of MLflow's registry point to the choice of each task (needs --by)."""
    results: Annotated[str, tyro.conf.arg(metavar="PLACE")] = "results"
    """Folder of the sweeps, or the URL of an object store."""
    tracking_uri: Annotated[Maybe[str], tyro.conf.arg(metavar="URI")] = None
    """MLflow's store. Default: that of the sweep."""

    def __call__(self) -> None:
        """Run it."""
        from diffcps.report import selection
        from diffcps.runs.read import collect

        console, sweep = Console(), collect(located(self.sweep, self.results).folder)
        if self.by is None:
            if self.register:
                raise UserError("--register needs --by CRITERION: without one nothing is chosen.")
            if not (compared := selection.comparison(sweep)):
                known = ", ".join(selection.available(sweep)) or "none"
                say(console, "No two policies of a task have scores, so criteria cannot be compared.")
                say(console, f"--by CRITERION orders the policies by one of those that this sweep has: {known}.")
                return
            for task, columns in compared.items():
                console.print(terminal_table(columns, task))
            say(console, "regret@n: the best score less the best of the n policies that the criterion puts first")
            return
        found = selection.candidates(sweep, self.by)
        if self.register and is_url(self.results) and (earlier := [own[0] for own in found.values() if _at(own[0])]):
            raise UserError(
                f"the choice for {earlier[0].trial.task.name} is of step {earlier[0].step:,}, which has no model in MLflow. Its "
                f"checkpoint is in the object store. Copy the run folder {earlier[0].trial.key} to this machine, and export it: "
                f"diffcps export FOLDER OUT --member {earlier[0].member} --step {earlier[0].step}."
            )
        say(console, f"{self.by}: {CRITERIA[self.by].says}")
        for task, own in found.items():
            console.print(terminal_table(selection.ranking(own, self.by), task))
            say(console, f"to deploy: {own[0].trial.folder}, member {own[0].member}{_at(own[0])}")
            say(console, f"{selection.verdict(selection.agreement(own))} {selection.caution(own, self.by)}".rstrip())
            if self.register:
                say(console, self._registered(sweep, own[0], self.by))

    def _registered(self, sweep: "Sweep", chosen: "Candidate", by: str) -> str:
        """Set the alias; a sentence about it."""
        from diffcps.runs.folder import RunFolder
        from diffcps.tracking import Tracker, check, default_uri

        known = self.tracking_uri or sweep.description.get("tracking_uri") or default_uri(sweep.folder.parent)
        tracker = Tracker(check(str(known)), sweep.name)
        name = tracker.register_choice(RunFolder(chosen.trial.folder), chosen.member, chosen.step, by)
        return f"MLflow: {name}"


def _at(chosen: "Candidate") -> str:
    """The step of a choice that is not of the final checkpoint."""
    return "" if chosen.step == chosen.trial.config.steps else f", step {chosen.step}"
