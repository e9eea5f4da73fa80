"""Finds the policy that a command names: a run folder, its key, an exported folder, or an MLflow model."""

from pathlib import Path

from diffcps.deploy import SavedPolicy, load_policy
from diffcps.errors import UserError
from diffcps.runs.folder import RunFolder


def find(target: str, member: int | None, results: Path, tracking_uri: str | None, scratch: Path) -> list[SavedPolicy]:
    """The policies that ``target`` names: all members of a run folder, or one policy.

    Args:
        target: path of a run folder, of an exported folder or of a downloaded model; the key of a trial in ``results``; or
            an MLflow URI such as ``models:/hopper-medium-v2@best`` or ``runs:/…``.
        member: number of one member in a run folder; ``None``: all.
        results: folder of the sweeps, and of MLflow's database unless ``tracking_uri`` names another.
        tracking_uri: MLflow's store.
        scratch: folder for downloads from MLflow.

    Raises:
        UserError: there is no such policy, or its files are missing or damaged.
    """
    scheme = target.partition(":/")[0]
    if scheme in ("models", "runs", "mlflow-artifacts"):
        from diffcps.tracking import download

        folder = download(target, tracking_uri, results, scratch)
        return [load_policy(folder, member)]
    if "://" in target:
        raise UserError(
            f"{target}: policies cannot be read from an object store. Copy the run folder to this machine and name the copy."
        )
    folder = Path(target).expanduser()
    if not folder.exists() and "/" not in target:
        found = sorted(results.expanduser().glob(f"*/runs/{target}"))
        if len(found) > 1:
            raise UserError(
                f"{target} is in several sweeps: {', '.join(str(path.parent.parent) for path in found)}. Give its full path."
            )
        folder = found[0] if found else folder
    if (folder / "config.json").exists():
        if member is not None:
            return [load_policy(folder, member)]
        from diffcps.deploy.trained import members

        return members(RunFolder(folder))
    return [load_policy(folder, member)]
