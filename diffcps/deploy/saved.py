"""A trained policy: its description, how it acts, and its two files.

policy.safetensors   the networks: online policy, its average and its student, target critic
policy.json          everything else: task, sizes, settings, checkpoint, data, versions, and the SHA-256 of the first file
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from diffcps import algorithms
from diffcps.algorithms.pack import Pack
from diffcps.config import Actor, RunConfig
from diffcps.errors import UserError
from diffcps.files import unwritable_as_user_error, write_atomically
from diffcps.training.policy import Policy

FORMAT = "diffcps policy 1"
"""First entry of ``policy.json``. A format that this version cannot read has another number."""
NETWORKS, CARD = "policy.safetensors", "policy.json"
ROWS_AT_ONCE = 4096
"""Observations that are processed together; limits the memory for their candidates."""


@dataclass(frozen=True)
class Card:
    """The description of a policy."""

    run: RunConfig
    """The trial, with this policy as its only member."""
    key: str
    """The trial's key: the name of its run folder."""
    member: int
    """Its number in the trial's pack, from 0."""
    step: int
    """Number of gradient steps."""
    observation_size: int
    action_size: int
    max_action: float
    """Actions are in [−max_action, max_action]."""
    score: float | None = None
    """Mean score of the evaluation at this step; ``None`` when there was no evaluation."""
    dataset: Mapping[str, Any] = field(default_factory=dict)
    """The training data: source, checksum, provenance, rows."""
    versions: Mapping[str, Any] = field(default_factory=dict)
    """Versions of the packages used in training."""
    git_commit: str = "unknown"
    """The project's commit used in training."""

    @property
    def seed(self) -> int:
        """The policy's seed."""
        return self.run.members[0].seed

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, ready for JSON."""
        return {"format": FORMAT, **vars(self), "run": self.run.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Card":
        """The inverse of ``to_dict``. Raises ``UserError`` naming the wrong value."""
        if values.get("format") != FORMAT:
            raise UserError(f"its format is {values.get('format')!r}; this version reads {FORMAT!r}.")
        try:
            known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
            card = cls(**{**known, "run": RunConfig.from_dict(values["run"])})
            sizes = card.observation_size, card.action_size, card.member, card.step
            whole = all(isinstance(size, int) for size in sizes) and min(sizes[:2]) > 0
            if not whole or not float(card.max_action) > 0 or len(card.run.members) != 1:
                raise ValueError(f"sizes {sizes}, bound {card.max_action} and {len(card.run.members)} members")
            algorithms.settings(card.run)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"it does not describe one policy ({type(error).__name__}: {error}).") from error
        return card


class SavedPolicy:
    """One policy with its networks; ``load_policy`` makes one.

    It uses the sampler of training and evaluation. Observations and actions are those of the environment, in its units; a policy
    that was trained on normalised ones normalises them itself.

    Args:
        card: its description.
        parameters: the tensors of ``Algorithm.acting`` that its pack has, e.g. ``actor``, ``average`` ``[1, P]`` and
            ``target`` ``[1, 2 P']``.
        device: the device that computes actions.

    Raises:
        UserError: the parameters do not fit the networks that the card describes.
    """

    def __init__(self, card: Card, parameters: Mapping[str, Tensor], device: torch.device | str = "cpu") -> None:
        self.card = card
        sizes = card.observation_size, card.action_size, card.max_action
        algorithm = algorithms.build(card.run, sizes, torch.device(device))
        fresh = Pack.create(algorithm, [torch.Generator()])
        wanted = {name: list(fresh[name].shape) for name in algorithm.acting if name in fresh.tensors}
        given = {name: list(value.shape) for name, value in parameters.items() if value.dtype == torch.float32}
        if given != wanted:
            raise UserError(f"its networks are {given}, but its settings need {wanted}, all of float32.")
        self.networks = {name: value.to(device) for name, value in parameters.items()}
        self.policy = Policy(algorithm, fresh.some(algorithm.acting) | self.networks)
        self._generator = torch.Generator(device).manual_seed(0)

    def __repr__(self) -> str:
        return f"<policy for {self.card.run.task}, seed {self.card.seed}, after {self.card.step:,} steps>"

    def act(
        self,
        observations: ArrayLike,
        candidates: int | None = None,
        actor: Actor | None = None,
        seed: int | None = None,
    ) -> NDArray[np.float32]:
        """Actions for observations.

        Args:
            observations: ``[B, o]``, or one ``[o]``, from the environment.
            candidates: N; N actions are sampled for each observation, and the algorithm makes one of them by its own rule.
                1 uses no critic. By default as in the evaluations during training.
            actor: ``online``, ``average``, the moving average (EMA), or ``student``, which acts in one step where it was
                trained. By default as in the evaluations during training.
            seed: seed of the noise; the same seed gives the same actions. By default the noise comes from the policy's
                random stream, which restarts with each ``load_policy``.

        Returns:
            ``[B, a]``, or ``[a]``, within ±``max_action``.

        Raises:
            UserError: the observations have another size, or an option does not fit this policy.
        """
        rows = np.asarray(observations, dtype=np.float32)
        size = self.card.observation_size
        if rows.ndim not in (1, 2) or rows.shape[-1] != size:
            raise UserError(
                f"observations of shape {list(rows.shape)}: a policy for {self.card.run.task} needs [{size}] or [B, {size}]."
            )
        candidates, actor = self.options(candidates, actor)
        generator = self._generator
        if seed is not None:
            generator = torch.Generator(self.policy.algorithm.device).manual_seed(int(seed))
        batch = rows.reshape(-1, size)
        chosen = [
            self.policy.act([batch[first : first + ROWS_AT_ONCE]], [generator], candidates, actor)[0]
            for first in range(0, len(batch), ROWS_AT_ONCE)
        ]
        actions = np.concatenate(chosen) if chosen else np.zeros((0, self.card.action_size), np.float32)
        return actions.reshape(*rows.shape[:-1], self.card.action_size)

    def options(self, candidates: int | None, actor: Actor | None) -> tuple[int, Actor]:
        """Candidates and actor, by default as in the evaluations during training. Raises ``UserError`` as ``act`` does."""
        evaluation = self.card.run.evaluation
        actor = evaluation.actor if actor is None else actor
        usual = 1 if actor == "student" else evaluation.candidates
        candidates = usual if candidates is None else int(candidates)
        if candidates < 1:
            raise UserError(f"candidates = {candidates}: it must be a positive whole number.")
        algorithms.check_acting(self.card.run, candidates, actor)
        return candidates, actor

    def changed(self, **settings: Any) -> "SavedPolicy":
        """The same networks acting by other settings, e.g. ``guidance_scale=3.0``.

        Raises ``UserError`` for a setting with which they would have been trained otherwise, or a value that breaks a rule.
        """
        run = self.card.run
        known = algorithms.get(run.algorithm).settings.of_acting()
        for name in settings:
            if name not in known:
                told = f"those of {run.algorithm} that can are {', '.join(known)}" if known else "none can"
                raise UserError(f"{name} cannot be changed after training of {run.algorithm}: {told}.")
        changed = algorithms.complete(run.changed(settings))
        return SavedPolicy(replace(self.card, run=changed), self.networks, self.policy.algorithm.device)

    def save(self, folder: Path | str) -> Path:
        """Write the two files into ``folder``, which is created if necessary. Raises ``UserError`` when that fails."""
        folder = Path(folder)
        content = safetensors.save({name: value.cpu().contiguous() for name, value in self.networks.items()})
        card = self.card.to_dict() | {"sha256": hashlib.sha256(content).hexdigest()}
        text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
        for file, data in ((folder / NETWORKS, content), (folder / CARD, text.encode())):
            with unwritable_as_user_error(file, "Choose another folder."):
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(file, data)
        return folder


def read(folder: Path, device: torch.device | str = "cpu") -> SavedPolicy:
    """Read the files of ``SavedPolicy.save``. Raises ``UserError`` with the name of a missing, damaged or unknown file."""
    card_file, file = folder / CARD, folder / NETWORKS
    remedy = "Export the policy again."
    try:
        values = json.loads(card_file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is not a JSON object")
        content = file.read_bytes()
    except (OSError, ValueError) as error:
        missing = isinstance(error, OSError) and str(error.filename) == str(file)
        raise UserError(f"{file if missing else card_file} cannot be read: {error}. {remedy}") from error
    try:
        card = Card.from_dict(values)
    except UserError as error:
        raise UserError(f"{card_file}: {error} {remedy}") from error
    if hashlib.sha256(content).hexdigest() != values.get("sha256"):
        raise UserError(f"{file} is damaged or does not belong to {CARD}: its SHA-256 differs. {remedy}")
    try:
        return SavedPolicy(card, safetensors.load(content), device)
    except (SafetensorError, UserError) as error:
        raise UserError(f"{file}: {error} {remedy}") from error
