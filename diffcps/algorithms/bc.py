"""Behaviour cloning: the policy that fits the data best, without values, constraint or λ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from diffcps.algorithms.base import Batch, Copy, Metrics, Network, Problem, Stage, StepKind, StepNoise, detached
from diffcps.algorithms.chain import ChainPolicy
from diffcps.algorithms.gaussian import GaussianPolicy
from diffcps.algorithms.observations import FACTS, Normalised
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.policies import Fit, Policy, Weights
from diffcps.algorithms.settings import Cloning
from diffcps.algorithms.streams import Integers, Noise, Normal
from diffcps.algorithms.student import Teacher

STEP_LOSS_MEMORY = 5000.0
"""Actions over which a calibrated covariance averages the error of each diffusion step."""
METRICS = "behaviour_loss", "actor_loss", "actor_grad_norm", "constraint"


@dataclass(frozen=True)
class Settings(Cloning):
    """The settings of a member."""


S = TypeVar("S", bound=Cloning)


class Cloner(Normalised[S], Teacher[S]):
    """A policy of any class that can be fitted to the data; what learns further is a subclass."""

    acting: ClassVar[tuple[str, ...]] = ("actor", "average", "student", "step_losses", *FACTS)
    has_density = True

    def __init__(self, members: Sequence[S], problem: Problem, device: torch.device) -> None:
        super().__init__(members, problem, device)
        config = self.config
        kind = ChainPolicy if config.policy == "diffusion" else GaussianPolicy
        self.policy: Policy = kind(config, problem, self.product, device)
        self.draws = self.policy.draws
        rates = [1.0 - member.ema_decay for member in members]
        average = Copy(rates, config.ema_every, config.ema_start)
        decay = -(-problem.steps // config.policy_freq) if config.cosine_decay else None
        self.networks["actor"] = Network(self.policy.layout, copies={"average": average}, decay_steps=decay)
        self.fit_noise: dict[str, Noise] = {
            "noise": Normal((config.batch_size, self.policy.noise_width)),
            "step": Integers((config.batch_size,), config.diffusion_steps),
        }
        """What fitting the actions of a batch draws."""

    def carry(self, pack: Pack, observations: Tensor, noise: Tensor) -> Tensor:
        """See ``Teacher.carry``."""
        assert isinstance(self.policy, ChainPolicy)
        return self.policy.carry(self.weights(pack.tensors, "average"), observations, noise)

    @property
    def normalises(self) -> bool:
        """See ``Normalised``."""
        return self.config.normalise

    def tensors(self) -> dict[str, Tensor]:
        """Besides the others: the running error of each diffusion step, 1 for an untrained net, the variance of the noise."""
        found = super().tensors()
        if self.config.covariance == "calibrated":
            steps = self.config.diffusion_steps
            found["step_losses"] = torch.ones(len(self.members), steps, device=self.device)
        return found

    def every(self, kind: str, other: str) -> tuple[str, ...]:
        """The cycle in which every ``policy_freq``-th step is of one kind, and those between of another."""
        return (kind, *[other] * (self.config.policy_freq - 1))

    def weights(self, tensors: Mapping[str, Tensor], name: str = "actor", losses: str = "step_losses") -> Weights:
        """What a policy computes with, for reading."""
        return Weights(self.policy.layout.layers(tensors[name]), tensors.get(losses))

    def learning_weights(self, pack: Pack) -> Weights:
        """Those of the online policy as leaves that ask for gradients."""
        return Weights(self.policy.layout.leaves(pack["actor"]), pack.tensors.get("step_losses"))

    def fit(self, weights: Weights, batch: Batch, noise: StepNoise) -> Fit:
        """How well a policy fits the actions of a batch."""
        return self.policy.fit(weights, batch.observations, batch.actions, step=noise["step"], noise=noise["noise"])

    def clone(self, pack: Pack, batch: Batch, noise: StepNoise) -> Metrics:
        """One step of the policy down C alone, in place: the behaviour loss, or the cross-entropy that the settings name."""
        weights = self.learning_weights(pack)
        fit = self.fit(weights, batch, noise)
        constraint = fit.rows.mean(dim=1)
        loss = fit.with_variance(constraint)
        metrics = detached({"actor_loss": loss, "behaviour_loss": fit.behaviour_loss, "constraint": constraint})
        return metrics | {"actor_grad_norm": self.improve(pack, weights, loss, fit)}

    def improve(self, pack: Pack, weights: Weights, loss: Tensor, fit: Fit) -> Tensor:
        """Step the policies down the gradient of their loss ``[K]``; returns the gradients' norms ``[K]``.

        The running error of each diffusion step moves by what this step has seen.
        """
        if "step_losses" in pack.tensors:
            assert fit.step_losses is not None
            assert fit.step_counts is not None
            means = fit.step_losses / fit.step_counts.clamp(min=1.0)
            pack["step_losses"].lerp_(means, 1.0 - torch.exp(-fit.step_counts / STEP_LOSS_MEMORY))
        return pack.descend("actor", loss, weights.layers, clip=True)

    def act(self, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """Draw one action for each observation."""
        return self.policy.sample(self.weights(parameters), observations, noise)


class BC(Cloner[Settings]):
    """Cloning alone. Steps between policy steps do nothing."""

    settings = Settings
    chooses = False

    def __init__(self, members: Sequence[Settings], problem: Problem, device: torch.device) -> None:
        super().__init__(members, problem, device)
        batch = self.config.batch_size
        metrics = (*METRICS, *self.student_metrics)
        self.kinds = {"behaviour": StepKind(batch, metrics, self.fit_noise), "idle": StepKind(batch, ())}
        self.add_student()
        self.stages = (Stage(self.every("behaviour", "idle")),)

    def update(self, pack: Pack, batch: Batch, noise: StepNoise, kind: str) -> Metrics:
        """One gradient step of every member's policy, in place, when it is a policy step."""
        return self.clone(pack, batch, noise) | self.teach(pack, batch, noise) if kind == "behaviour" else {}
