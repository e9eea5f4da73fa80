"""Trained policies: load, save, export, evaluate, film, and serve through MLflow. See docs/policies.md."""

from pathlib import Path
from typing import TYPE_CHECKING

from diffcps.deploy.saved import CARD, SavedPolicy, read
from diffcps.errors import UserError

if TYPE_CHECKING:
    import torch

__all__ = ["SavedPolicy", "load_policy"]


def load_policy(
    path: Path | str,
    member: int | None = None,
    device: "torch.device | str" = "cpu",
    best: bool = False,
    step: int | None = None,
) -> SavedPolicy:
    """Load a trained policy.

    Args:
        path: a run folder (``results/NAME/runs/KEY``), an exported folder, or the folder of an MLflow model.
        member: number of the policy in a run folder's pack, from 0; by default the first. Other folders have one policy.
        device: the device that computes actions.
        best: of a run folder that keeps it, the policy of its best evaluation instead of the newest.
        step: of a run folder that keeps it, the policy of the evaluation at this step.

    Raises:
        UserError: there is no policy, or a file is damaged or of another kind. The message names the file.
    """
    folder = Path(path).expanduser()
    for location in (folder, folder / "data" / "policy"):
        if (location / CARD).exists():
            if member is not None:
                raise UserError(f"{folder} contains one policy: leave out the member ({member}).")
            if best or step is not None:
                raise UserError(
                    f"{folder} contains one policy: which evaluation it is of was decided when it was saved."
                )
            return read(location, device)
    if (folder / "config.json").exists():
        from diffcps.deploy.trained import members
        from diffcps.runs.folder import RunFolder

        return members(RunFolder(folder), member or 0, device, best=best, step=step)[0]
    if (folder / "runs").is_dir():
        known = sorted(file.parent.name for file in (folder / "runs").glob("*/config.json"))
        raise UserError(f"{folder} is the folder of a sweep. Name one of its run folders: runs/{{{', '.join(known)}}}.")
    if not folder.exists():
        raise UserError(f"{folder} does not exist. A run folder is results/NAME/runs/KEY.")
    raise UserError(
        f"{folder} contains no policy: there is neither config.json of a run folder nor an exported {CARD}."
    )
