"""Puts the files of a report where they belong."""

from collections.abc import Mapping
from pathlib import Path

from diffcps.errors import UserError
from diffcps.runs import write_atomically


def save(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files below a folder, each replaced in one move. Raises ``UserError`` when one cannot be written."""
    paths = []
    for name, content in files.items():
        path = folder / name
        try:
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, content)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}.") from error
        paths.append(path)
    return paths
