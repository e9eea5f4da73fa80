"""Name, tags and parameters of a run in MLflow; all follow from the trial's configuration."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from diffcps.config import RunConfig
from diffcps.text import redacted, worded

Key = tuple[str, str, str]
"""Level (``sweep``, ``trial``, ``member``), key of the trial, index of the member in its pack: identifies a run."""

SWEEP: Key = "sweep", "", ""


def keys(config: RunConfig) -> list[Key]:
    """Keys of a trial's run and of the run of each member, ``[1 + K]``."""
    return [("trial", config.key, ""), *(("member", config.key, str(k)) for k in range(len(config.members)))]


def name(config: RunConfig, members: Sequence[int]) -> str:
    """Name of a run: the configuration of one member or of the whole pack."""
    settings = [f"{symbol}={common(config, members, name)}" for name, symbol in config.symbols.items()]
    return " ".join([config.task, config.algorithm, *settings])


def tags(config: RunConfig, members: Sequence[int], environment: Mapping[str, Any]) -> dict[str, str]:
    """Tags to filter by; ``environment`` is the content of ``environment.json``, empty before the trial has started."""
    known = {
        "config_key": config.key,
        "task": config.task,
        "algorithm": config.algorithm,
        **{name: common(config, members, name) for name in config.symbols},
        "seed": ", ".join(str(config.members[k].seed) for k in members),
        "profile": config.profile,
        "physics": config.physics,
        "data_source": config.data.source,
    }
    if config.definition is not None:
        known |= {"minari_id": config.definition.minari_id, "score": config.definition.score}
    if environment:
        dataset = environment["dataset"]
        known |= {
            "dataset_checksum": str(dataset["checksum"]),
            "provenance": str(dataset["provenance"]),
            "git_commit": str(environment["git_commit"]),
            "mlflow.source.git.commit": str(environment["git_commit"]),
            "device": str(environment["device"]),
        }
    return known


def sweep_tags(sweep: str, description: Mapping[str, Any]) -> dict[str, str]:
    """Tags of a sweep's own run; ``description`` is the content of ``sweep.json``."""
    known = {"mlflow.runName": sweep, "sweep": sweep, "level": "sweep"}
    known |= {key: str(description[key]) for key in ("preset", "created") if key in description}
    if command := description.get("command"):
        words = [command] if isinstance(command, str) else [redacted(word) for word in command]
        known |= {"command": shlex.join(words) if len(words) > 1 else words[0]}
        known["mlflow.source.name"] = known["command"]
    return known


def parameters(config: RunConfig, members: Sequence[int]) -> dict[str, str]:
    """Every setting, flat, under its own name. Settings in which members differ are parameters of the members' runs only.

    ``checkpoint_minutes`` is left out: it may change when a trial is resumed, and MLflow's parameters cannot change.
    """
    values = config.to_dict()
    flat = {setting: values[setting] for setting in ("task", "algorithm", "steps", "profile", "physics", "log_every")}
    flat["seeds"] = len(config.members)
    flat |= {f"data_{setting}": value for setting, value in values["data"].items()}
    flat |= {f"evaluation_{setting}": value for setting, value in values["evaluation"].items()}
    if len(members) == 1:
        flat["seed"] = config.members[members[0]].seed
    for setting in config.settings:
        if len(own := {config.value(setting, k) for k in members}) == 1:
            flat[setting] = own.pop()
    return {setting: str(value) for setting, value in flat.items()}


def common(config: RunConfig, members: Sequence[int], setting: str) -> str:
    """The value of a setting, or all values if members differ; empty if the algorithm does not have it."""
    values = [config.value(setting, k) for k in members]
    return ", ".join(dict.fromkeys(worded(value, digits=10) for value in values if value is not None))
