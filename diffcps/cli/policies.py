"""What a person may name as a policy: a run folder, its key, an exported folder, or a model of MLflow's."""

from pathlib import Path

from diffcps.deploy import SavedPolicy, load_policy
from diffcps.errors import UserError
from diffcps.runs.folder import RunFolder


def find(target: str, member: int | None, results: Path, tracking_uri: str | None, scratch: Path) -> list[SavedPolicy]:
    """The policies that ``target`` names: all members of a run folder, or one.

    Args:
        target: path of a run folder, of an exported folder or of a downloaded model; the key of a trial in ``results``; or
            an address such as ``models:/hopper-medium-v2@best`` or ``runs:/…``.
        member: which one of a run folder's.
        results: where sweeps are, and MLflow's store unless another is given.
        tracking_uri: MLflow's store.
        scratch: a folder for what has to be fetched.

    Raises:
        UserError: nothing of that name; what is missing or damaged.
    """
    scheme = target.partition(":/")[0]
    if scheme in ("models", "runs", "mlflow-artifacts"):
        from diffcps.tracking import download

        folder = download(target, tracking_uri, results, scratch)
        return [load_policy(folder, member)]
    if "://" in target:
        raise UserError(
            f"{target}: results in an object store have to be copied here first; name their run folder then."
        )
    folder = Path(target).expanduser()
    if not folder.exists() and "/" not in target:
        found = sorted(results.expanduser().glob(f"*/runs/{target}"))
        if len(found) > 1:
            raise UserError(
                f"{target} is in {', '.join(str(path.parent.parent) for path in found)}: name its whole path."
            )
        folder = found[0] if found else folder
    if (folder / "config.json").exists():
        if member is not None:
            return [load_policy(folder, member)]
        from diffcps.deploy.trained import members

        return members(RunFolder(folder))
    return [load_policy(folder, member)]
