"""Policies as MLflow models: one for every finished member, and the best of each task in the registry.

Every step may be repeated: a model is found by its tags, and a model that a kill left unfinished is deleted.
"""

import json
import re
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffcps.config import RunConfig
from diffcps.data import library
from diffcps.deploy import shipping
from diffcps.deploy.saved import SavedPolicy
from diffcps.deploy.trained import members
from diffcps.runs.folder import RunFolder
from diffcps.tasks.registry import task_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

ALIAS, CHOSEN = "best", "best-offline"
"""Aliases of a registered model: the highest last score, and what was chosen without an environment."""
PACKAGES = "numpy", "safetensors", "torch"
"""Requirements of a model besides MLflow, pinned to the installed versions."""
OBSERVATIONS = "float64 [B, o], as MuJoCo environments give them; of float32 ones give observations.astype(float)."
"""Note in a model's metadata: MLflow refuses input of any other type."""


def complete(client: "MlflowClient", experiment: str, runs: Sequence[str], folder: RunFolder) -> bool:
    """Make a model of every member of a trial that has none yet; returns whether every member has one now.

    A trial without its final checkpoint has no finished members and gets no models.

    Args:
        client: of the store.
        experiment: its id.
        runs: the trial's run and the run of each member, ``[1 + K]``.
        folder: the trial's run folder, with its checkpoint.

    Raises:
        UserError: the folder's checkpoint is missing or damaged.
    """
    key = folder.config.key
    known = _models(client, experiment, f"tags.config_key = '{key}'")
    lacking = [k for k in range(len(folder.config.members)) if not _ready(client, known.get(str(k), []))]
    if not lacking:
        return True
    policies = members(folder)
    if policies[0].card.step < folder.config.steps:
        return False
    with tempfile.TemporaryDirectory(prefix="diffcps-model-") as scratch:
        code = shipping.ship(Path(scratch))
        for k in lacking:
            _log_one(client, experiment, runs[1 + k], policy=policies[k], code=code, folder=Path(scratch) / str(k))
    return True


def register_best(client: "MlflowClient", experiment: str, sweep: str) -> list[str]:
    """Register the member with the highest last score of each task; returns the names that got a new version.

    A name is a task, with algorithm, data and physics if they are not the default: scores of different algorithms, data or
    physics are not mixed. The alias moves only to a higher score, also across sweeps.
    """
    best: dict[str, LoggedModel] = {}
    counts: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    for member, models in _models(client, experiment).items():
        for model in models:
            name, score = model.tags.get("registered_name"), model.tags.get("score")
            twin = (model.tags.get("config_key", ""), member)
            if str(model.status) != "READY" or not name or not score or twin in seen:
                continue
            seen.add(twin)  # a worker that was wrongly taken for dead may have made it twice
            counts[name] = counts.get(name, 0) + 1
            if name not in best or _order(model) > _order(best[name]):
                best[name] = model
    return [
        name for name, model in sorted(best.items()) if _register(client, sweep, name, model=model, count=counts[name])
    ]


def register_choice(
    client: "MlflowClient",
    experiment: str,
    sweep: str,
    *,
    runs: Sequence[str],
    folder: RunFolder,
    member: int,
    step: int,
    by: str,
) -> str:
    """Let the alias ``CHOSEN`` of its name point to one policy's model; returns ``models:/NAME@ALIAS``.

    A policy that has no model yet, such as that of an earlier evaluation, gets one.

    Args:
        client: of the store.
        experiment: its id.
        sweep: its name.
        runs: the trial's run and the run of each member, ``[1 + K]``.
        folder: the trial's run folder.
        member: the policy's number in the pack.
        step: the evaluation that it is of; the last step for the final one.
        by: what it was chosen by, which the version's tags say.

    Raises:
        UserError: there is no model yet, and the folder's checkpoint does not have the policy.
    """
    where = f"tags.config_key = '{folder.config.key}' AND tags.step = '{step}'"
    own = {"earlier": step < folder.config.steps}
    if not _whole(_models(client, experiment, where, **own).get(str(member), [])):
        (policy,) = members(folder, member, step=step)
        with tempfile.TemporaryDirectory(prefix="diffcps-model-") as scratch:
            code = shipping.ship(Path(scratch))
            _log_one(client, experiment, runs[1 + member], policy=policy, code=code, folder=Path(scratch) / "model")
    model = _whole(_models(client, experiment, where, **own)[str(member)])[0]
    name = model.tags["registered_name"]
    version, _ = _version_of(client, sweep, name, model=model, why=f"Chosen by {by}, without an environment, from")
    client.set_model_version_tag(name, version.version, "chosen_by", by)
    client.set_registered_model_alias(name, CHOSEN, version.version)
    return f"models:/{name}@{CHOSEN}"


def registered_name(config: RunConfig, provenance: str = "unverified") -> str:
    """``hopper-medium-v2``; with ``-iql``, ``-collected``, ``-300-rows``, ``-modern`` if algorithm, data or physics are not
    the default, so that the best of a name is the best of what can be compared.

    ``-other-data`` is added if a file with D4RL's name is not D4RL's.
    """
    task = task_of(config)
    parts = [config.task]
    parts += [config.data.source] if config.data.source != task.sources[0] else []
    parts += ["other-data"] if task.d4rl_file and len(parts) == 1 and provenance == "other" else []
    if library.source(config.data.source).makes:
        parts += [f"{config.data.rows}-rows"] if config.data.rows != task.rows else []
        parts += [f"data-seed-{config.data.seed}"] if config.data.seed else []
    parts[1:1] = [config.algorithm] if config.algorithm != RunConfig(task.name).algorithm else []
    parts += [config.physics] if config.physics != task.physics else []
    parts += [f"{config.data.hold_out:g}-held-out"] if config.data.hold_out else []
    return "-".join(parts)


def requirements() -> list[str]:
    """Pinned requirements, without suffixes such as ``+cpu``: each machine installs the build that fits it."""
    versions = {name: metadata.version(name).partition("+")[0] for name in ("mlflow", *PACKAGES)}
    return [f"{name}=={version}" for name, version in versions.items()]


def signature(policy: SavedPolicy) -> "ModelSignature":
    """Observations ``[B, o]`` (float64, as in MuJoCo environments), actions ``[B, a]``, and parameters of acting."""
    from mlflow.models import ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    card = policy.card
    candidates, actor = policy.options(None, None)
    return ModelSignature(
        Schema([TensorSpec(np.dtype(np.float64), (-1, card.observation_size))]),
        Schema([TensorSpec(np.dtype(np.float32), (-1, card.action_size))]),
        ParamSchema([
            ParamSpec("candidates", DataType.long, candidates),
            ParamSpec("network", DataType.string, actor),
            ParamSpec("seed", DataType.long, None),
        ]),
    )  # fmt: skip


def write(policy: SavedPolicy, folder: Path, code: Path, run: str | None = None, model: str | None = None) -> None:
    """Write the policy as an MLflow model into ``folder``; ``code`` is the folder that ``shipping.ship`` wrote."""
    from mlflow import pyfunc
    from mlflow.models import Model

    data = folder.parent / f"{folder.name}-data" / "policy"
    policy.save(data)
    example = np.zeros((2, policy.card.observation_size))
    pyfunc.save_model(
        folder, loader_module=f"{code.name}.deploy.pyfunc", data_path=str(data), code_paths=[str(code)],
        mlflow_model=Model(run_id=run, model_id=model), signature=signature(policy),
        input_example=example, pip_requirements=requirements(), metadata=tags(policy) | {"observations": OBSERVATIONS},
    )  # fmt: skip


def tags(policy: SavedPolicy) -> dict[str, str]:
    """Tags by which a model is found and chosen."""
    card = policy.card
    known = {
        "config_key": card.key, "member": str(card.member), "task": card.run.task, "seed": str(card.seed),
        "step": str(card.step), "data_source": card.run.data.source, "physics": card.run.physics,
        "registered_name": registered_name(card.run, card.dataset.get("provenance", "unverified")), "git_commit": card.git_commit,
        "dataset_checksum": str(card.dataset.get("checksum", "unknown")),
    }  # fmt: skip
    known |= {"score": repr(card.score)} if card.score is not None else {}
    return known | ({"earlier": "true"} if card.step < card.run.steps else {})


def _log_one(
    client: "MlflowClient", experiment: str, run: str, *, policy: SavedPolicy, code: Path, folder: Path
) -> None:
    from mlflow.entities import LoggedModelOutput, Metric

    card = policy.card
    settings = {name: card.run.value(name) for name in card.run.symbols}
    params = {name: str(value) for name, value in (settings | {"seed": card.seed}).items()}
    # MLflow's names may not contain a full stop
    name = f"{re.sub('[^A-Za-z0-9_-]', '-', card.run.task)} {card.run.algorithm} seed {card.seed}"
    if earlier := card.step < card.run.steps:
        name += f" step {card.step}"
    model = client.create_logged_model(experiment, name, run, tags=tags(policy), params=params, model_type="policy")
    write(policy, folder, code, run=run, model=model.model_id)
    client.log_model_artifacts(model.model_id, str(folder))
    client.log_outputs(run, [LoggedModelOutput(model.model_id, card.step)])
    if card.score is not None:  # a metric by which MLflow's list of models can be sorted
        now = int(time.time() * 1000)
        data = {"dataset_name": card.run.task, "dataset_digest": tags(policy)["dataset_checksum"][:36]}
        kind = "earlier_score" if earlier else "last_score"
        shown = Metric(kind, card.score, now, card.step, model_id=model.model_id, run_id=run, **data)
        client.log_batch(run, [shown])
    client.finalize_logged_model(model.model_id, "READY")


def _models(
    client: "MlflowClient", experiment: str, where: str | None = None, *, earlier: bool = False
) -> dict[str, list["LoggedModel"]]:
    """Models of the experiment by the index of their member, oldest first: of final policies or of those of earlier steps."""
    found: dict[str, list[LoggedModel]] = {}
    token: str | None = None
    while True:
        page = client.search_logged_models([experiment], where, page_token=token)
        for model in page:
            if ("earlier" in model.tags) == earlier:
                found.setdefault(model.tags.get("member", ""), []).append(model)
        token = page.token
        if not token:
            break
    return {member: sorted(models, key=lambda m: m.creation_timestamp) for member, models in found.items()}


def _ready(client: "MlflowClient", models: Sequence["LoggedModel"]) -> bool:
    """Whether one of them is complete; all others (unfinished or duplicates) are deleted."""
    whole = _whole(models)
    for model in models:
        if model not in whole[:1]:
            client.delete_logged_model(model.model_id)
    return bool(whole)


def _whole(models: Sequence["LoggedModel"]) -> list["LoggedModel"]:
    """Those that are complete."""
    return [model for model in models if str(model.status) == "READY"]


def _order(model: "LoggedModel") -> tuple[float, int]:
    """Sort key: higher score, then older model."""
    return float(model.tags["score"]), -model.creation_timestamp


def _register(client: "MlflowClient", sweep: str, name: str, *, model: "LoggedModel", count: int) -> bool:
    """Make the model a version of ``name`` unless it is one, and set the alias; returns whether it is new."""
    _, new = _version_of(client, sweep, name, model=model, why=f"The highest last score of {count} finished members of")
    versions = [found for found in client.search_model_versions(f"name = '{name}'") if "earlier" not in found.tags]
    top = max(versions, key=lambda version: (float(version.tags.get("score", "-inf")), -int(version.version)))
    client.set_registered_model_alias(name, ALIAS, top.version)
    return new


def _version_of(
    client: "MlflowClient", sweep: str, name: str, *, model: "LoggedModel", why: str
) -> "tuple[ModelVersion, bool]":
    """The version of ``name`` that the model is, made if it is none yet, and whether it was made; ``why`` it is one."""
    versions = list(client.search_model_versions(f"name = '{name}'"))
    for version in versions:
        if version.tags.get("model_id") == model.model_id:
            return version, False
    if not versions and not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(
            name,
            {"task": model.tags["task"]},
            f"Policies for {model.tags['task']}. The alias `{ALIAS}` marks the highest last score (final checkpoint) "
            "among the members of all sweeps in this store. The highest of several scores is biased upwards: evaluate the "
            "policy again with `diffcps evaluate models:/" + name + f"@{ALIAS}`. The alias `{CHOSEN}` marks what "
            "`diffcps select` has chosen without an environment.",
        )
    return _version(client, sweep, name, model=model, why=why), True


def _version(client: "MlflowClient", sweep: str, name: str, *, model: "LoggedModel", why: str) -> "ModelVersion":
    """A new version of a registered model."""
    wanted = ("score", "seed", "step", "earlier", "config_key", "member", "dataset_checksum")
    kept = {key: model.tags[key] for key in wanted if key in model.tags}
    version = client.create_model_version(
        name,
        model.artifact_location,
        model.source_run_id,
        tags=kept | {"sweep": sweep, "model_id": model.model_id},
        description=f"{why} the sweep {sweep}: score {float(model.tags.get('score', 'nan')):.1f} after "
        f"{model.tags['step']} steps (seed {model.tags['seed']}, {model.tags['data_source']} data).",
        await_creation_for=0,
        model_id=model.model_id,
    )
    # MLflow's server sets this tag by itself; a store that is written directly does not
    registered = json.dumps([{"name": name, "version": int(version.version)}])
    client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": registered})
    return version
