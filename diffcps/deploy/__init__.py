"""Policies for use outside of training: loaded, saved, exported, and served by MLflow. See the README beside this file."""

from pathlib import Path
from typing import TYPE_CHECKING

from diffcps.deploy.saved import CARD, SavedPolicy, read
from diffcps.errors import UserError

if TYPE_CHECKING:
    import torch

__all__ = ["SavedPolicy", "load_policy"]


def load_policy(path: Path | str, member: int | None = None, device: "torch.device | str" = "cpu") -> SavedPolicy:
    """A trained policy, ready to act.

    Args:
        path: a run folder (``results/NAME/runs/KEY``), an exported folder, or the folder of an MLflow model.
        member: which policy of a run folder's pack, counted from 0; by default the first. Other folders have one.
        device: where it computes.

    Raises:
        UserError: there is none, or its files are damaged or something else; names the file.
    """
    folder = Path(path).expanduser()
    for place in (folder, folder / "data" / "policy"):
        if (place / CARD).exists():
            if member is not None:
                raise UserError(f"{folder} holds one policy: leave out the member ({member}).")
            return read(place, device)
    if (folder / "config.json").exists():
        from diffcps.deploy.trained import members
        from diffcps.runs.folder import RunFolder

        return members(RunFolder(folder), member or 0, device)[0]
    if (folder / "runs").is_dir():
        known = sorted(file.parent.name for file in (folder / "runs").glob("*/config.json"))
        raise UserError(f"{folder} is a whole sweep: choose one of its run folders, runs/{{{', '.join(known)}}}.")
    if not folder.exists():
        raise UserError(f"{folder} does not exist. A run folder is results/NAME/runs/KEY.")
    raise UserError(f"{folder} holds no policy: neither a run folder's config.json nor an exported {CARD}.")
