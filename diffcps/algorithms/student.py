"""A student: a network that reaches in one step the action that a chain reaches from the same noise in T.

The averaged chain maps noise z to an action without drawing anything on the way, along its flow (``diffusion.carry``).
The student μ(s, z) learns that map by its squared distance, and where there is a critic it raises its value a little too: the
policy's loss of FQL (Park, Li and Levine, 2025, arXiv 2502.02538) with this map in the place of a flow. The chain learns
nothing from the student: with and without one it is the same to the bit, and what holds it to the data still does.

Tried on the four corners and left: the chain's mean without its noise, which ends in a single action; the map of all T draws of
the chain, which a network of this size learns ten times worse; and the online chain in the place of its average, which moves too
much from step to step to be followed (squared distance .047 for .0003).
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from diffcps.algorithms.base import Acting, Algorithm, Batch, Metrics, Network, Problem, StepNoise
from diffcps.algorithms.nn import Layers, Mlp
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.settings import WithStudent
from diffcps.config import Actor, RunConfig
from diffcps.errors import UserError

METRICS = "student_distance", "student_loss", "student_grad_norm"


class Student:
    """μ(s, z) of K members; it holds no parameters. Those of a pack are called ``student``."""

    draws = 1
    """See ``Algorithm.draws``."""

    def __init__(self, config: Any, problem: Problem, product: torch.dtype | None, unit: float) -> None:
        self.limit, self.unit = problem.max_action, unit
        sizes = problem.observation_size + problem.action_size, config.hidden_size, problem.action_size
        self.mlp = Mlp(*sizes, layers=config.hidden_layers, product=product)
        self.network = Network(self.mlp.layout)

    def reach(self, layers: Layers, observations: Tensor, noise: Tensor) -> Tensor:
        """μ(s, z) ``[K, B, a]`` in units of the bound and not kept within it, for s ``[K, B, o]`` and z ``[K, B, a]``."""
        return self.mlp(layers, torch.cat([observations, noise], dim=2))

    def act(self, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """See ``Algorithm.act``: one candidate, kept within the bound."""
        layers = self.mlp.layout.layers(parameters["actor"])
        return self.limit * self.reach(layers, observations, noise[0]).clamp(-1.0, 1.0)

    def learn(
        self,
        pack: Pack,
        observations: Tensor,
        noise: Tensor,
        goal: Tensor,
        value: Callable[[Tensor], Tensor] | None = None,
    ) -> Metrics:
        """One step down mean (μ(s, z) − goal)² + w q, in place.

        Args:
            pack: of the members.
            observations: s, ``[K, B, o]``.
            noise: z, ``[K, B, a]``.
            goal: where the chain carries z, ``[K, B, a]``, a constant, in the batch's units of actions.
            value: q ``[K]`` of actions ``[K, B, a]`` in these units, to be lowered, with the weight ``student_value``; ``None``
                for none.
        """
        leaves = self.mlp.layout.leaves(pack["student"])
        actions = self.reach(leaves, observations, noise)
        distance = loss = (actions - goal / self.unit).square().mean(dim=(1, 2))
        if value is not None:
            loss = loss + pack.values["student_value"] * value(self.unit * actions.clamp(-1.0, 1.0))
        norm = pack.descend("student", loss, leaves)
        return {"student_distance": distance.detach(), "student_loss": loss.detach(), "student_grad_norm": norm}


S = TypeVar("S", bound=WithStudent)


class Teacher(Algorithm[S]):  # type: ignore[type-var]  # S is of ``Learning``, too
    """An algorithm with a chain as its policy, which may have a student."""

    averages = True
    """See ``Algorithm.averages``. Without an averaged policy the chain moves too much for a student that learns along with it, so
    one is made after training; see ``deploy.distil``."""
    student_critic: ClassVar[str] = "target"
    """Where there is a critic, the parameters that a finished policy keeps of it; they raise a student made after training."""
    student: Student | None = None

    @classmethod
    def actors(cls, settings: S) -> Mapping[Actor, str]:
        """See ``Algorithm.actors``."""
        found = super().actors(settings)
        return found if settings.student == "none" else {**found, "student": "student"}

    @classmethod
    def check_training(cls, trial: RunConfig, settings: S) -> None:
        """See ``Algorithm.check_training``."""
        if settings.student != "none" and not cls.averages:
            raise UserError(
                f"student {settings.student!r}: a student of {trial.algorithm} is made after training, from the finished policy. "
                "Train without it, then: diffcps distil RUN FOLDER"
            )

    def acting_as(self, actor: Actor) -> Acting:
        """See ``Algorithm.acting_as``."""
        return self.student if actor == "student" and self.student is not None else self

    @property
    def student_metrics(self) -> tuple[str, ...]:
        """What ``teach`` gives."""
        return () if self.config.student == "none" else METRICS

    def add_student(self) -> None:
        """Add the student's network, after all others: their initial weights do not depend on it."""
        if self.config.student != "none":
            self.student = Student(self.config, self.problem, self.product, unit=self.batch_bound)
            self.networks["student"] = self.student.network

    def teach(
        self, pack: Pack, batch: Batch, noise: StepNoise, value: Callable[[Tensor], Tensor] | None = None
    ) -> Metrics:
        """One step of the student, if there is one, in place; see ``Student.learn``.

        z is the noise that the step adds to the data's actions: drawing more would change the chain's own draws.
        """
        if self.student is None:
            return {}
        z = noise["noise"][..., : self.problem.action_size]
        with torch.no_grad():
            goal = self.carry(pack, batch.observations, z)
        return self.student.learn(pack, batch.observations, z, goal, value=value)

    def carry(self, pack: Pack, observations: Tensor, noise: Tensor) -> Tensor:
        """Where the averaged or finished chain carries noise ``[K, B, a]``: actions ``[K, B, a]`` in the batch's units."""
        raise NotImplementedError
