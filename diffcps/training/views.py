"""Views of a trial beside MLflow, one curve a member: TensorBoard's event files, and Weights & Biases.

The run folder is the record. A view that cannot be written says so once and is silent; it never ends a trial.
"""

import importlib.util
import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcps.config import Member, RunConfig
from diffcps.errors import UserError
from diffcps.files import write_atomically

logger = logging.getLogger(__name__)

PROJECT = "diffcps"
"""Of Weights & Biases."""
FINISH_SECONDS = 60.0
"""How long the end of a trial waits for Weights & Biases to send what is left."""


class MetricsView:
    """A ``training.course.Sink`` for a place that shows one run of a single seed at a time: each member has its own.

    Args:
        folder: the trial's run folder.
        config: of the trial that is shown.
    """

    place = ""
    """What people call it."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.folder, self.config = folder, config
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
        except Exception as error:  # of any library: a view never ends a trial
            self._broken = True
            logger.warning(
                "%s: nothing more is shown in %s: %s: %s", self.folder, self.place, type(error).__name__, error
            )

    def close(self, pruned: str = "") -> None:
        """See ``Sink``."""
        for run in self._runs:
            try:
                self.end(run)
            except Exception as error:
                logger.warning("%s: not all is shown in %s: %s", self.folder, self.place, error)

    def opened(self, step: int) -> list[Any]:
        """A run of each member, which begins or continues at this step."""
        raise NotImplementedError

    def write(self, run: Any, values: Mapping[str, float], step: int) -> None:
        """Show values of one step."""
        raise NotImplementedError

    def end(self, run: Any) -> None:
        """Show what is still waiting."""
        raise NotImplementedError


class TensorBoard(MetricsView):
    """Event files in the run folder, one subfolder a member: ``tensorboard/seed_0``, ``seed_1``, …

    After a resume TensorBoard drops what came after the step at which it continues.
    """

    place = "TensorBoard"

    def opened(self, step: int) -> list[Any]:
        """See ``MetricsView``."""
        from tensorboardX import SummaryWriter  # half a second, which trials without TensorBoard need not pay

        folders = [self.folder / "tensorboard" / f"seed_{member.seed}" for member in self.config.members]
        again = [step if any(folder.glob("events.*")) else None for folder in folders]
        return [
            SummaryWriter(str(own), purge_step=at, filename_suffix=f".{step}")
            for own, at in zip(folders, again, strict=True)
        ]

    def write(self, run: Any, values: Mapping[str, float], step: int) -> None:
        """See ``MetricsView``."""
        for name, value in values.items():
            run.add_scalar(name, value, step)
        run.flush()

    def end(self, run: Any) -> None:
        """See ``MetricsView``."""
        run.close()


class Wandb(MetricsView):
    """Runs of Weights & Biases, one a member, grouped by trial, in the project ``diffcps`` or ``WANDB_PROJECT``.

    A resumed trial continues in its own runs, which keep the values of steps that come again. A word that is drawn once, and kept
    in the run folder, tells them from the runs of another training of the same trial.
    """

    place = "Weights & Biases"

    def opened(self, step: int) -> list[Any]:
        """See ``MetricsView``."""
        import wandb  # only here: it takes a second, and need not be installed

        quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True, finish_timeout=FINISH_SECONDS)
        drawn = self.folder / "wandb" / "drawn.txt"
        if not drawn.exists():
            drawn.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(drawn, secrets.token_hex(4).encode())
        own = drawn.read_text()
        found = []
        for member in self.config.members:
            name = f"{self.config.key}_seed_{member.seed}"
            found.append(
                wandb.init(
                    project=os.environ.get("WANDB_PROJECT", PROJECT), group=self.config.key, name=name, id=f"{name}_{own}",
                    resume="allow", reinit="create_new", dir=self.folder, config=_settings(self.config, member), settings=quiet,
                )
            )  # fmt: skip
        return found

    def write(self, run: Any, values: Mapping[str, float], step: int) -> None:
        """See ``MetricsView``."""
        run.log(dict(values), step=step)

    def end(self, run: Any) -> None:
        """See ``MetricsView``."""
        run.finish()


def _settings(config: RunConfig, member: Member) -> dict[str, Any]:
    """Settings of a member, and what identifies its trial."""
    whole = config.to_dict()
    known = {name: whole[name] for name in ("task", "algorithm", "profile", "steps", "physics", "data", "evaluation")}
    return known | {**config.settings, **member.settings, "seed": member.seed}


VIEWS: Mapping[str, type[MetricsView]] = {"tensorboard": TensorBoard, "wandb": Wandb}
"""By the words of ``--also``."""


def views(names: Sequence[str], config: RunConfig, folder: Path) -> list[MetricsView]:
    """The views of these names, of the trial in the run folder ``folder``."""
    return [VIEWS[name](folder, config) for name in names]


def check(names: Sequence[str], stored: bool = False) -> None:
    """Raise ``UserError`` where a view cannot be had, before any work; ``stored``: run folders are in an object store."""
    if stored and "tensorboard" in names:
        raise UserError(
            "--also tensorboard writes into run folders, and here these are in an object store. Leave it out."
        )
    if "wandb" not in names:
        return
    if importlib.util.find_spec("wandb") is None:
        raise UserError("--also wandb: Weights & Biases is not installed. Install it: pip install 'diffcps[wandb]'")
    import wandb

    try:
        mode = wandb.setup().settings.mode
        ready = mode != "online" or wandb.login(prompt=False, verify=False)
    except Exception as error:  # it says what is wrong with its settings in exceptions of several kinds
        raise UserError(f"--also wandb: {error}") from error
    if stored and mode == "offline":
        raise UserError(
            "--also wandb keeps its files in run folders when it is offline, and here these are in an object store."
        )
    if not ready:
        raise UserError(
            "--also wandb: Weights & Biases knows no key on this machine. Run `wandb login`, or set WANDB_MODE=offline to "
            "keep its files in the run folders and send them later."
        )
