"""What a run in MLflow is called, tagged and parameterised: everything follows from the trial's configuration."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from diffcps.config import RunConfig
from diffcps.text import shown

Key = tuple[str, str, str]
"""Level (``sweep``, ``trial``, ``member``), the trial's key, the member's place in the pack: what a run is found by."""

SWEEP: Key = "sweep", "", ""


def keys(config: RunConfig) -> list[Key]:
    """Of a trial's run and of each member's; ``[1 + K]``."""
    return [("trial", config.key, ""), *(("member", config.key, str(k)) for k in range(len(config.members)))]


SHOWN = {"diffusion_steps": "T", "lambda_clip": "λ-clip", "target_kl": "κ"}
"""Settings in the name of a run, where the algorithm has them, and their symbols."""


def name(config: RunConfig, members: Sequence[int]) -> str:
    """The configuration in words; of one member or of a whole pack."""
    shown = {
        symbol: common(config, members, setting) for setting, symbol in SHOWN.items() if setting in config.settings
    }
    return " ".join([config.task, *(f"{symbol}={value}" for symbol, value in shown.items())])


def tags(config: RunConfig, members: Sequence[int], environment: Mapping[str, Any]) -> dict[str, str]:
    """What people filter by; ``environment`` is the content of ``environment.json``, empty before the trial started."""
    known = {
        "config_key": config.key,
        "task": config.task,
        "algorithm": config.algorithm,
        **{
            "T" if setting == "diffusion_steps" else setting: common(config, members, setting)
            for setting in SHOWN
            if setting in config.settings
        },
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
    """Of a sweep's own run; ``description`` is the content of ``sweep.json``."""
    known = {"mlflow.runName": sweep, "sweep": sweep, "level": "sweep"}
    known |= {key: str(description[key]) for key in ("preset", "created") if key in description}
    if command := description.get("command"):
        words = [command] if isinstance(command, str) else [shown(word) for word in command]
        known |= {"command": shlex.join(words) if len(words) > 1 else words[0]}
        known["mlflow.source.name"] = known["command"]
    return known


def parameters(config: RunConfig, members: Sequence[int]) -> dict[str, str]:
    """Every setting under its own name, flat; those in which the members differ only on the members' runs.

    ``checkpoint_minutes`` is left out: it may change when a trial is resumed, and a parameter of MLflow's cannot.
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
    """The value of a setting, or every value where the members differ; empty where the algorithm has no such setting."""
    values = [config.value(setting, k) for k in members]
    return ", ".join(dict.fromkeys(f"{value:.10g}" for value in values if value is not None))
