"""Views of a trial beside MLflow, one curve a member: TensorBoard's event files, and Weights & Biases.

The run folder is the record. A view that cannot be written says so once and is silent; it never ends a trial.
"""

import contextlib
import hashlib
import importlib.util
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcps.config import RunConfig
from diffcps.errors import UserError

logger = logging.getLogger(__name__)

PROJECT = "diffcps"
"""Of Weights & Biases."""


class View:
    """A ``training.Sink`` for a place that shows one run of a single seed at a time: each member has its own.

    Args:
        folder: the trial's run folder.
        trial: whose metrics come.
    """

    place = ""
    """What people call it."""
    troubles: tuple[type[Exception], ...] = (OSError,)
    """What is raised where it cannot be written."""

    def __init__(self, folder: Path, trial: RunConfig) -> None:
        self.folder, self.trial = folder, trial
        self._runs: list[Any] = []
        self._broken = False

    def log(self, metrics: Mapping[str, NDArray[Any]], step: int) -> None:
        """See ``Sink``. Values that are no finite numbers are left out."""
        if self._broken:
            return
        try:
            if not self._runs:
                self._runs = self.opened(step)
            for number, run in enumerate(self._runs):
                found = {name: float(values[number]) for name, values in metrics.items()}
                self.write(run, {name: value for name, value in found.items() if np.isfinite(value)}, step)
        except self.troubles as error:
            self._broken = True
            logger.warning("%s: nothing more is shown in %s: %s", self.folder, self.place, error)

    def close(self, pruned: str = "") -> None:
        """See ``Sink``."""
        for run in self._runs:
            with contextlib.suppress(*self.troubles):
                self.end(run)

    def opened(self, step: int) -> list[Any]:
        """A run of each member, which begins or goes on at this step."""
        raise NotImplementedError

    def write(self, run: Any, values: Mapping[str, float], step: int) -> None:
        """Show values of one step."""
        raise NotImplementedError

    def end(self, run: Any) -> None:
        """Show what is still waiting."""
        raise NotImplementedError


class TensorBoard(View):
    """Event files in the run folder, one subfolder a member: ``tensorboard/seed_0``, ``seed_1``, …

    After a resume TensorBoard drops what came after the step at which it goes on.
    """

    place = "TensorBoard"

    def opened(self, step: int) -> list[Any]:
        """See ``View``."""
        from tensorboardX import SummaryWriter  # half a second, which trials without TensorBoard need not pay

        folders = [self.folder / "tensorboard" / f"seed_{member.seed}" for member in self.trial.members]
        again = [step if any(folder.glob("events.*")) else None for folder in folders]
        return [
            SummaryWriter(str(own), purge_step=at, filename_suffix=f".{step}")
            for own, at in zip(folders, again, strict=True)
        ]

    def write(self, run: Any, values: Mapping[str, float], step: int) -> None:
        """See ``View``."""
        for name, value in values.items():
            run.add_scalar(name, value, step)
        run.flush()

    def end(self, run: Any) -> None:
        """See ``View``."""
        run.close()


class Wandb(View):
    """Runs of Weights & Biases, one a member, grouped by trial, in the project ``diffcps`` or ``WANDB_PROJECT``.

    A resumed trial goes on in its own runs, which keep the values of steps that come again.
    """

    place = "Weights & Biases"

    def opened(self, step: int) -> list[Any]:
        """See ``View``."""
        import wandb  # only here: it takes a second, and need not be installed

        self.troubles = (OSError, wandb.Error)
        quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True)
        place = hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:8]
        found = []
        for member in self.trial.members:
            name = f"{self.trial.key}_seed_{member.seed}"
            found.append(
                wandb.init(
                    project=os.environ.get("WANDB_PROJECT", PROJECT), group=self.trial.key, name=name, id=f"{name}_{place}",
                    resume="allow", reinit="create_new", dir=self.folder, config=_settings(self.trial, member.settings),
                    settings=quiet,
                )
            )  # fmt: skip
        return found

    def write(self, run: Any, values: Mapping[str, float], step: int) -> None:
        """See ``View``."""
        run.log(dict(values), step=step)

    def end(self, run: Any) -> None:
        """See ``View``."""
        run.finish()


def _settings(trial: RunConfig, own: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a member, and what identifies its trial."""
    known = {"task": trial.task, "algorithm": trial.algorithm, "profile": trial.profile, "steps": trial.steps}
    return known | {**trial.settings, **own}


VIEWS: Mapping[str, type[View]] = {"tensorboard": TensorBoard, "wandb": Wandb}
"""By the words of ``--also``."""


def views(names: Sequence[str], trial: RunConfig, folder: Path) -> list[View]:
    """The views of these names, of a trial whose run folder is ``folder``."""
    return [VIEWS[name](folder, trial) for name in names]


def check(names: Sequence[str]) -> None:
    """Raise ``UserError`` where a view is not to be had on this machine, before any work."""
    if "wandb" not in names:
        return
    if importlib.util.find_spec("wandb") is None:
        raise UserError("--also wandb: Weights & Biases is not installed. Install it: pip install 'diffcps[wandb]'")
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return
    import wandb

    if not wandb.login(prompt=False):
        raise UserError(
            "--also wandb: Weights & Biases knows no key on this machine. Run `wandb login`, or set WANDB_MODE=offline to "
            "keep its files in the run folders and send them later."
        )
