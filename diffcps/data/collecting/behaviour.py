"""The shipped behaviour policies: small networks, the snapshots of one training per robot, in NumPy.

A policy is a Gaussian. Its mean is a two-layer tanh network of the normalised input; its standard deviation does not depend
on the state. Its input is the observation, or for the ant what ``practice.features`` makes of it. Collecting
needs neither torch nor the library that trained them (stable-baselines3, the optional extra ``behaviour``).
"""

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcps.errors import UserError
from diffcps.tasks import Level, Robot

POLICIES = Path(__file__).parent / "policies"
"""The shipped policies: one ``.npz`` of weights and one ``.json`` of facts per robot."""

Array = NDArray[np.float32]

INPUT_CLIP = 10.0
"""Normalised inputs are clipped to ±10, as they were in training."""


@dataclass(frozen=True, eq=False)
class BehaviourPolicy:
    """N(mean(s), std²) clipped to the action bounds; every array is float32."""

    input_mean: Array
    """[o]"""
    input_std: Array
    """[o]"""
    weight_0: Array
    """[o, h]"""
    bias_0: Array
    """[h]"""
    weight_1: Array
    """[h, h]"""
    bias_1: Array
    """[h]"""
    weight_2: Array
    """[h, a]"""
    bias_2: Array
    """[a]"""
    action_std: Array
    """[a]"""

    def mean(self, inputs: NDArray[np.floating]) -> Array:
        """Mean actions [..., a] (not clipped) for inputs [..., o].

        Each row is multiplied by itself. A product of several rows may round otherwise than a product of one, and what
        an episode becomes must not depend on how many others are played beside it.
        """
        x: Array = (np.asarray(inputs, dtype=np.float32) - self.input_mean) / self.input_std
        x = np.clip(x, -INPUT_CLIP, INPUT_CLIP)[..., None, :]
        x = np.tanh(x @ self.weight_0 + self.bias_0)
        x = np.tanh(x @ self.weight_1 + self.bias_1)
        return (x @ self.weight_2 + self.bias_2)[..., 0, :]

    def act(self, inputs: NDArray[np.floating], generator: np.random.Generator, bound: float = 1.0) -> Array:
        """Actions [..., a] drawn from the policy for inputs [..., o], clipped to ±``bound``."""
        mean = self.mean(inputs)
        noise = generator.standard_normal(mean.shape, dtype=np.float32)
        return np.clip(mean + self.action_std * noise, -bound, bound)


@dataclass(frozen=True)
class Snapshot:
    """What is known of one policy of a training."""

    steps: int
    """Environment steps of training behind it."""
    score: float
    """Mean normalised score of the stochastic policy; for the ant, metres walked towards its targets per second."""
    return_mean: float
    return_std: float
    length_mean: float
    """Mean episode length in environment steps."""


@dataclass(frozen=True)
class PolicyFacts:
    """One training and its snapshots, in the order of training; stored beside the weights."""

    robot: Robot
    physics: str
    snapshots: tuple[Snapshot, ...]
    medium: int
    """Which snapshot is the medium policy; the ones up to it make the replay data."""
    expert: int
    """Which snapshot is the expert: the best."""
    episodes: int
    """Episodes behind the numbers of each snapshot."""
    seed: int
    target_score: float
    """The medium policy is the snapshot nearest to this score among the first to reach it and those before."""
    settings: dict[str, Any]
    """Arguments of PPO."""
    versions: dict[str, str]

    def __post_init__(self) -> None:
        for name in ("medium", "expert"):
            if not 0 <= getattr(self, name) < len(self.snapshots):
                raise ValueError(f"{name} = {getattr(self, name)}, with {len(self.snapshots)} snapshots")


@dataclass(frozen=True, eq=False)
class Lineage:
    """The snapshots of one training: their weights and what is known of them."""

    policies: tuple[BehaviourPolicy, ...]
    facts: PolicyFacts

    def of(self, level: Level) -> tuple[BehaviourPolicy, ...]:
        """The policies that record a data set of this level, in order."""
        medium, expert = self.policies[self.facts.medium], self.policies[self.facts.expert]
        match level:
            case "medium":
                return (medium,)
            case "expert":
                return (expert,)
            case "medium-expert":
                return medium, expert
            case "medium-replay":  # from the untrained one on: a replay buffer would hold their data
                return self.policies[: self.facts.medium + 1]

    @property
    def checksum(self) -> str:
        """sha256 of the weights and of which snapshot is which."""
        digest = hashlib.sha256(f"{self.facts.medium} {self.facts.expert};".encode())
        for policy in self.policies:
            for field in fields(policy):
                digest.update(np.ascontiguousarray(getattr(policy, field.name)).tobytes())
        return digest.hexdigest()


def shipped() -> tuple[str, ...]:
    """Names of the robots that have shipped policies."""
    return tuple(sorted(path.stem for path in POLICIES.glob("*.npz")))


def save(folder: Path, policies: Sequence[BehaviourPolicy], facts: PolicyFacts) -> None:
    """Write ``{robot}.npz``, each array stacked over the snapshots, and ``{robot}.json`` into ``folder``."""
    arrays: dict[str, Any] = {f.name: np.stack([getattr(p, f.name) for p in policies]) for f in fields(BehaviourPolicy)}
    np.savez_compressed(folder / f"{facts.robot}.npz", **arrays)
    (folder / f"{facts.robot}.json").write_text(json.dumps(asdict(facts), indent=2) + "\n")


def load(robot: str, folder: Path = POLICIES) -> Lineage:
    """The policies of a robot. Raises ``UserError`` when there are none or their files are damaged."""
    weights, words = folder / f"{robot}.npz", folder / f"{robot}.json"
    if not weights.is_file():
        raise UserError(
            f"there are no behaviour policies for {robot!r} in {folder} (there are: {', '.join(shipped())}). "
            f"`diffcps data train-policy --help` says how to train some."
        )
    try:
        with np.load(weights, allow_pickle=False) as file:
            arrays = {f.name: file[f.name] for f in fields(BehaviourPolicy)}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{weights} does not hold behaviour policies ({error}). Reinstall the project.") from error
    try:
        values = json.loads(words.read_text())
        values["snapshots"] = tuple(Snapshot(**snapshot) for snapshot in values["snapshots"])
        facts = PolicyFacts(**values)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{words} does not describe behaviour policies ({error}). Reinstall the project.") from error
    count = len(facts.snapshots)
    for name, array in arrays.items():
        if array.dtype != np.float32 or len(array) != count or not np.isfinite(array).all():
            raise UserError(f"{weights}: {name} is not {count} arrays of finite float32 values. Reinstall the project.")
    policies = tuple(BehaviourPolicy(**{name: array[i] for name, array in arrays.items()}) for i in range(count))
    return Lineage(policies, facts)
