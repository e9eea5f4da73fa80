"""One trained policy for use: what it is, how it acts, and its two files.

policy.safetensors   the networks: online policy, its average, target critic
policy.json          everything else: task, sizes, settings, checkpoint, data, versions, and the SHA-256 of the first
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from diffcps import algorithms
from diffcps.algorithms.model import Model
from diffcps.config import Actor, Member, RunConfig
from diffcps.errors import UserError
from diffcps.files import disk_full_as_user_error, write_atomically
from diffcps.training.policy import Policy

FORMAT = "diffcps policy 1"
"""What the first line of ``policy.json`` says; a change that this reader could not follow gets another number."""
NETWORKS, CARD = "policy.safetensors", "policy.json"
ROWS_AT_ONCE = 4096
"""Observations that are acted on together, which bounds the memory of their candidates."""


@dataclass(frozen=True)
class Card:
    """What a policy is and where it comes from."""

    run: RunConfig
    """The trial, with this policy's member alone."""
    key: str
    """The trial's key: the name of its run folder."""
    member: int
    """Its place in the trial's pack."""
    step: int
    """Gradient steps it has taken. A run folder keeps its newest checkpoint: that of the end, once it is complete."""
    observation_size: int
    action_size: int
    max_action: float
    """Actions lie in [−max_action, max_action]."""
    score: float | None = None
    """Its score at this step: the mean over the episodes of the evaluation; ``None`` where it was not judged."""
    dataset: Mapping[str, Any] = field(default_factory=dict)
    """What it was learned from: source, checksum, provenance, rows."""
    versions: Mapping[str, Any] = field(default_factory=dict)
    """Packages it was trained with."""
    git_commit: str = "unknown"
    """The project's commit it was trained with."""

    @property
    def config(self) -> Member:
        """The member."""
        return self.run.members[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, ready for JSON."""
        return {"format": FORMAT, **vars(self), "run": self.run.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Card":
        """The inverse of ``to_dict``. Raises ``UserError`` saying what does not fit."""
        if values.get("format") != FORMAT:
            raise UserError(f"its format is {values.get('format')!r}, and this version reads {FORMAT!r}.")
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

    It acts through the sampler that training and evaluation use, and normalises nothing: observations go in as the
    environment gives them, actions come out in its units.

    Args:
        card: what it is.
        parameters: ``actor``, ``average`` ``[1, P]``, ``target`` ``[1, 2 P']`` and, where the covariance is calibrated,
            ``step_losses`` ``[1, T]``.
        device: where it computes.

    Raises:
        UserError: the parameters are not those of the card's networks.
    """

    def __init__(self, card: Card, parameters: Mapping[str, Tensor], device: torch.device | str = "cpu") -> None:
        self.card = card
        model = Model(
            card.run.algorithm,
            algorithms.settings(card.run),
            card.observation_size,
            card.action_size,
            card.max_action,
            torch.device(device),
        )
        wanted = {name: [1, model.policy.layout.parameters] for name in ("actor", "average")}
        wanted["target"] = [1, 2 * model.critic.layout.parameters]
        if card.run.value("covariance") == "calibrated":
            wanted["step_losses"] = [1, card.run.value("diffusion_steps")]
        given = {name: list(value.shape) for name, value in parameters.items() if value.dtype == torch.float32}
        if given != wanted:
            raise UserError(f"its networks are {given}, and its settings ask for {wanted}, all of float32.")
        self.policy = Policy(model, {name: value.to(model.device) for name, value in parameters.items()})
        self._generator = torch.Generator(model.device).manual_seed(0)

    def __repr__(self) -> str:
        return f"<policy for {self.card.run.task}, seed {self.card.config.seed}, after {self.card.step:,} steps>"

    def act(
        self,
        observations: ArrayLike,
        candidates: int | None = None,
        actor: Actor | None = None,
        seed: int | None = None,
    ) -> NDArray[np.float32]:
        """Actions for observations.

        Args:
            observations: ``[B, o]``, or one ``[o]``, as the environment gives them.
            candidates: N actions are drawn for each observation and one is chosen by softmax over the target critic;
                1 takes the policy's own. By default as many as it was judged with.
            actor: ``online`` or ``average``, the moving average (EMA). By default the one that was judged.
            seed: of the noise of this call; the same seed gives the same actions. By default the policy's own stream
                goes on, which begins anew with each ``load_policy``.

        Returns:
            ``[B, a]``, or ``[a]``, within ±``max_action``.

        Raises:
            UserError: observations of another size, or an option that this policy cannot follow.
        """
        rows = np.asarray(observations, dtype=np.float32)
        size = self.card.observation_size
        if rows.ndim not in (1, 2) or rows.shape[-1] != size:
            raise UserError(
                f"observations of shape {list(rows.shape)}: a policy for {self.card.run.task} takes [{size}] or [B, {size}]."
            )
        candidates, actor = self.options(candidates, actor)
        generator = self._generator
        if seed is not None:
            generator = torch.Generator(self.policy.model.device).manual_seed(int(seed))
        batch = rows.reshape(-1, size)
        chosen = [
            self.policy.act([batch[first : first + ROWS_AT_ONCE]], [generator], candidates, actor)[0]
            for first in range(0, len(batch), ROWS_AT_ONCE)
        ]
        actions = np.concatenate(chosen) if chosen else np.zeros((0, self.card.action_size), np.float32)
        return actions.reshape(*rows.shape[:-1], self.card.action_size)

    def options(self, candidates: int | None, actor: Actor | None) -> tuple[int, Actor]:
        """Candidates and actor, those it was judged with where none are given. Raises ``UserError``, see ``act``."""
        evaluation = self.card.run.evaluation
        candidates = evaluation.candidates if candidates is None else int(candidates)
        actor = evaluation.actor if actor is None else actor
        if candidates < 1:
            raise UserError(f"candidates = {candidates}: it must be a positive whole number.")
        if candidates > 1 and self.card.run.algorithm == "bc":
            raise UserError("behaviour cloning learns no values to choose among candidates with: candidates must be 1.")
        if actor not in ("online", "average"):
            raise UserError(f"actor = {actor!r}: it must be 'online' or 'average'.")
        return candidates, actor

    def save(self, folder: Path | str) -> Path:
        """Write its two files into ``folder``, made if need be; ``load_policy`` reads them. Raises ``UserError`` if it cannot."""
        folder = Path(folder)
        content = safetensors.save({name: value.cpu().contiguous() for name, value in self.policy.parameters.items()})
        card = self.card.to_dict() | {"sha256": hashlib.sha256(content).hexdigest()}
        text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for file, data in ((folder / NETWORKS, content), (folder / CARD, text.encode())):
                with disk_full_as_user_error(file):
                    write_atomically(file, data)
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error.strerror}. Choose another folder.") from error
        return folder


def read(folder: Path, device: torch.device | str = "cpu") -> SavedPolicy:
    """The policy that ``SavedPolicy.save`` wrote. Raises ``UserError`` naming the file that is missing, damaged or foreign."""
    card_file, file = folder / CARD, folder / NETWORKS
    mend = "Export the policy again."
    try:
        values = json.loads(card_file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is no group of values")
        content = file.read_bytes()
    except (OSError, ValueError) as error:
        missing = isinstance(error, OSError) and str(error.filename) == str(file)
        raise UserError(f"{file if missing else card_file} cannot be read: {error}. {mend}") from error
    try:
        card = Card.from_dict(values)
    except UserError as error:
        raise UserError(f"{card_file}: {error} {mend}") from error
    if hashlib.sha256(content).hexdigest() != values.get("sha256"):
        raise UserError(f"{file} is damaged, or not what {CARD} beside it belongs to: its SHA-256 differs. {mend}")
    try:
        return SavedPolicy(card, safetensors.load(content), device)
    except (SafetensorError, UserError) as error:
        raise UserError(f"{file}: {error} {mend}") from error
