"""A pack: everything of K members that training changes, and what each of them has of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from diffcps.algorithms import duals
from diffcps.algorithms.model import Model
from diffcps.algorithms.nn import Adam, Layers, clip_by_norm, gradient
from diffcps.algorithms.policies import Explained

STEP_LOSS_MEMORY = 5000.0
"""Actions over which a calibrated covariance averages the error of each diffusion step."""

ACTING = "actor", "average", "target", "step_losses"
"""What acting and measuring need of a pack's state: policies, target critics, and what a calibrated covariance needs."""

CLONED_PART = 5
"""What behaviour cloning has reached is the mean over the last fifth of its policy steps: before, it still gets better."""


@dataclass
class Pack:
    """The members' parameters, optimisers, multipliers and running means."""

    actor: Tensor
    """Online policies, ``[K, P]``."""
    average: Tensor
    """Their exponential moving averages, which give the target actions."""
    critic: Tensor
    """Twin critics, ``[K, 2 P]``."""
    target: Tensor
    """Target critics."""
    multiplier: Tensor
    """λ, or the number that stands for it, ``[K, 1]``."""
    actor_adam: Adam
    critic_adam: Adam
    multiplier_adam: Adam
    values: dict[str, Tensor]
    """Settings that may differ between the members, by name, ``[K]``; NaN where a member has ``None``."""
    average_rate: Tensor
    """1 − ema_decay, ``[K, 1]``."""
    step_losses: Tensor | None = None
    """Running mean of the behaviour loss at each diffusion step, ``[K, T]``; a calibrated covariance needs it."""
    behaviour: Tensor | None = None
    """Sum and number of the constraint's values that behaviour cloning has reached, ``[K, 2]``; where the online policy is
    held."""
    cloned: Tensor | None = None
    """The averaged policies as behaviour cloning left them, ``[K, P]``; where the average is held."""
    cloned_losses: Tensor | None = None
    """``step_losses`` of then."""
    smoothed: Tensor | None = None
    """Running mean of the violation, ``[K]``; the ``pi`` controller needs it."""

    @classmethod
    def create(cls, model: Model, generators: Sequence[torch.Generator]) -> "Pack":
        """Fresh members; member k's weights come from ``generators[k]`` (CPU), so they do not depend on other members."""
        device, config, count = model.device, model.config, len(model.members)

        def column(found: list[float | None]) -> Tensor:
            return torch.tensor([float("nan") if v is None else v for v in found], device=device)

        values = {name: column([getattr(m, name) for m in model.members]) for name in config.of_member()}
        same = torch.ones(count, device=device)
        actor = model.policy.layout.initial(generators).to(device)
        critic = model.critic.initial(generators).to(device)
        multiplier = duals.initial(getattr(config, "dual", "released"), values.get("lambda_init", same)[:, None])
        # an untrained net explains nothing: its error is 1, the variance of the noise
        step_losses = same[:, None].repeat(1, config.diffusion_steps) if config.covariance == "calibrated" else None
        clones = getattr(config, "behaviour_steps", 0) > 0
        averages = clones and getattr(config, "constraint_policy", "online") == "average"
        return cls(
            actor=actor,
            average=actor.clone(),
            critic=critic,
            target=critic.clone(),
            multiplier=multiplier,
            actor_adam=Adam.create(actor, values["learning_rate"]),
            critic_adam=Adam.create(critic, values.get("critic_learning_rate", same)),
            multiplier_adam=Adam.create(multiplier, values.get("lambda_learning_rate", same)),
            values=values,
            average_rate=column([1.0 - cast(Any, m).ema_decay for m in model.members])[:, None],
            step_losses=step_losses,
            behaviour=torch.zeros(count, 2, device=device) if clones and not averages else None,
            cloned=actor.clone() if averages else None,
            cloned_losses=step_losses.clone() if averages and step_losses is not None else None,
            smoothed=torch.zeros(count, device=device) if getattr(config, "dual", None) == "pi" else None,
        )

    def state(self) -> dict[str, Tensor]:
        """Every tensor that training changes, by name; the very tensors, not copies."""
        names = (
            "actor", "average", "critic", "target", "multiplier", "step_losses", "behaviour", "cloned", "cloned_losses",
            "smoothed",
        )  # fmt: skip
        state = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        for name in ("actor", "critic", "multiplier"):
            adam: Adam = getattr(self, f"{name}_adam")
            state |= {f"{name}_adam.{key}": value for key, value in adam.state().items()}
        return state

    def acting(self) -> dict[str, Tensor]:
        """Those of them that are in ``ACTING``."""
        return {name: value for name, value in self.state().items() if name in ACTING}

    def keep_cloned(self) -> None:
        """Behaviour cloning has ended: from now on its policies are what slack is measured from."""
        if self.cloned is not None:
            self.cloned.copy_(self.average)
        if self.cloned_losses is not None and self.step_losses is not None:
            self.cloned_losses.copy_(self.step_losses)

    def bound(self, model: Model, reached: Tensor | None = None) -> Tensor:
        """κ, ``[K]``: the member's own, or set by what behaviour cloning has reached and the member's slack.

        ``reached`` is that, ``[K]``; by default the mean over the end of cloning.
        """
        if reached is None:
            if self.behaviour is None:
                return self.values["target_kl"]
            reached = self.behaviour[:, 0] / self.behaviour[:, 1].clamp(min=1.0)
        slack = self.values["slack"]
        relaxed = reached + slack if model.in_nats else reached * (1.0 + slack)
        return torch.where(slack.isnan(), self.values["target_kl"], relaxed)

    def improve(self, model: Model, actor: Layers, loss: Tensor, explained: Explained, constraint: Tensor) -> Tensor:
        """Step the policies ``actor`` down the gradient of their loss ``[K]``; returns the gradients' norms ``[K]``.

        The running means move by what this policy step has seen.
        """
        self._remember(model, explained, constraint)
        slope, norm = clip_by_norm(gradient(loss, actor), self.values["grad_norm"])
        self.actor_adam.step(self.actor, slope)
        return norm

    def _remember(self, model: Model, explained: Explained, constraint: Tensor) -> None:
        if self.step_losses is not None:
            assert explained.step_losses is not None
            assert explained.step_counts is not None
            counts = explained.step_counts
            means = explained.step_losses / counts.clamp(min=1.0)
            self.step_losses.lerp_(means, 1.0 - torch.exp(-counts / STEP_LOSS_MEMORY))
        if self.behaviour is not None:
            count, end = self.actor_adam.count, _policy_steps(model)
            counts_now = ((count >= end - max(1, end // CLONED_PART)) & (count < end)).to(constraint.dtype)
            self.behaviour.add_(torch.stack([constraint * counts_now, counts_now.expand_as(constraint)], dim=1))


def _policy_steps(model: Model) -> int:
    """Policy steps of behaviour cloning."""
    return -(-model.config.behaviour_steps // model.config.policy_freq)
