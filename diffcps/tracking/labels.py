"""What a run in MLflow is called, tagged and parameterised: everything follows from the trial's configuration."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from diffcps.config import MemberConfig, RunConfig
from diffcps.text import shown

Key = tuple[str, str, str]
"""Level (``sweep``, ``trial``, ``member``), the trial's key, the member's place in the pack: what a run is found by."""

SWEEP: Key = "sweep", "", ""


def keys(config: RunConfig) -> list[Key]:
    """Of a trial's run and of each member's; ``[1 + K]``."""
    return [("trial", config.key, ""), *(("member", config.key, str(k)) for k in range(len(config.members)))]


def name(config: RunConfig, members: Sequence[MemberConfig]) -> str:
    """The configuration in words; of one member or of a whole pack."""
    clip, bound = common(members, "lambda_clip"), common(members, "target_kl")
    return f"{config.task} T={config.algorithm.diffusion_steps} λ-clip={clip} κ={bound}"


def tags(config: RunConfig, members: Sequence[MemberConfig], environment: Mapping[str, Any]) -> dict[str, str]:
    """What people filter by; ``environment`` is the content of ``environment.json``, empty before the trial started."""
    known = {
        "config_key": config.key,
        "task": config.task,
        "T": str(config.algorithm.diffusion_steps),
        **{setting: common(members, setting) for setting in ("lambda_clip", "target_kl", "seed")},
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


def parameters(config: RunConfig, members: Sequence[MemberConfig]) -> dict[str, str]:
    """Every setting under its own name, flat; those in which the members differ only on the members' runs.

    ``checkpoint_minutes`` is left out: it may change when a trial is resumed, and a parameter of MLflow's cannot.
    """
    values = config.to_dict()
    flat = {setting: values[setting] for setting in ("task", "steps", "profile", "physics", "log_every")}
    flat["seeds"] = len(config.members)
    flat |= values["algorithm"]
    flat |= {f"data_{setting}": value for setting, value in values["data"].items()}
    flat |= {f"evaluation_{setting}": value for setting, value in values["evaluation"].items()}
    for setting in dict.fromkeys(name for member in values["members"] for name in member):
        if len({getattr(member, setting) for member in members}) == 1:
            flat[setting] = getattr(members[0], setting)
    return {setting: str(value) for setting, value in flat.items()}


def common(members: Sequence[MemberConfig], setting: str) -> str:
    """The value of a setting, or every value where the members differ."""
    return ", ".join(dict.fromkeys(f"{getattr(member, setting):.10g}" for member in members))
