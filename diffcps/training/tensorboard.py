"""Shows a trial in TensorBoard: a folder of event files for each member, beside the rows of its run folder."""

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcps.config import RunConfig

logger = logging.getLogger(__name__)


class TensorBoardSink:
    """A ``training.Sink`` that writes event files into ``folder``, one subfolder a member: ``seed_0``, ``seed_1``, …

    After a resume TensorBoard drops what came after the step at which it goes on.

    Args:
        folder: for the event files.
        trial: whose metrics come.
    """

    def __init__(self, folder: Path, trial: RunConfig) -> None:
        self._folder, self._trial = folder, trial
        self._writers: list[Any] = []
        self._broken = False

    def log(self, metrics: Mapping[str, NDArray[Any]], step: int) -> None:
        """See ``Sink``. Values that are no finite numbers are left out. Where it cannot write, it warns once and is silent."""
        if self._broken:
            return
        try:
            self._write(metrics, step)
        except OSError as error:  # a view that cannot be written does not end a trial
            self._broken = True
            logger.warning("%s: nothing more is shown in TensorBoard: %s", self._folder, error)

    def _write(self, metrics: Mapping[str, NDArray[Any]], step: int) -> None:
        for writer, number in zip(self._opened(step), range(len(self._trial.members)), strict=True):
            for name, values in metrics.items():
                if np.isfinite(values[number]):
                    writer.add_scalar(name, float(values[number]), step)
            writer.flush()

    def close(self, pruned: str = "") -> None:
        """See ``Sink``."""
        for writer in self._writers:
            with contextlib.suppress(OSError):
                writer.close()

    def _opened(self, step: int) -> list[Any]:
        """The writers, which begin at this step."""
        if not self._writers:
            from tensorboardX import SummaryWriter  # half a second, which trials without TensorBoard need not pay

            folders = [self._folder / f"seed_{member.seed}" for member in self._trial.members]
            again = [step if any(folder.glob("events.*")) else None for folder in folders]
            self._writers = [
                SummaryWriter(str(f), purge_step=at, filename_suffix=f".{step}")
                for f, at in zip(folders, again, strict=True)
            ]
        return self._writers


def sink_of(trial: RunConfig, folder: Path) -> TensorBoardSink:
    """The sink of a trial whose run folder is ``folder``."""
    return TensorBoardSink(folder / "tensorboard", trial)
