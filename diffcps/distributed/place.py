"""Where a trial finds its data and leaves its results. Light to import: a trial's driver and controller carry it too."""

from dataclasses import dataclass
from pathlib import Path

from diffcps.config import RunConfig
from diffcps.runs import RunFolder


@dataclass(frozen=True)
class Place:
    """Absolute paths, for a worker's own folder is Ray's."""

    folder: Path
    """The sweep's folder."""
    data_directories: tuple[Path, ...] = ()
    """Folders with data sets, searched first."""
    tracking_uri: str | None = None
    """MLflow store; ``None`` for none."""
    sweep: str = ""
    """Name of the sweep."""

    def run_folder(self, config: RunConfig) -> RunFolder:
        """The run folder of a trial."""
        return RunFolder(self.folder / "runs" / config.key)
