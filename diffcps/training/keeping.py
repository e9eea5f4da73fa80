"""Policies that a trial keeps besides its newest: of each member's best evaluation, and of the newest evaluations.

They live in the checkpoint, not in files of their own: a kill between two writes cannot name a wrong policy.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from diffcps.config import RunConfig
from diffcps.runs.checkpoint import Best, Checkpoint


class Kept:
    """What is kept of a trial.

    Args:
        config: the trial.
        state: the content of the checkpoint from which it resumes, empty without one.
    """

    def __init__(self, config: RunConfig, state: Checkpoint) -> None:
        self.config = config
        self.best: Best = state.get("best", {}) if config.keep_best else {}
        """Its ``networks`` are in the first worker only."""
        self.policies: dict[int, dict[str, Tensor]] = state.get("policies", {}) if config.keep_checkpoints else {}
        """Step of an evaluation -> networks ``[K, …]`` that act, in the first worker."""

    @property
    def state(self) -> Checkpoint:
        """What a checkpoint holds of it; empty where nothing is kept."""
        found: Checkpoint = {"best": self.best} if self.best else {}
        return {**found, "policies": self.policies} if self.policies else found

    def update(self, step: int, scores: Sequence[float] | None, acting: Callable[[], Mapping[str, Tensor]]) -> None:
        """Called in all workers after each evaluation.

        Args:
            step: of the evaluation.
            scores: ``[K]``; ``None`` where policies are not evaluated.
            acting: gives the networks by which all members act, an empty mapping in other workers than the first; all must call
                it.
        """
        better = self._better(scores) if scores is not None and self.config.keep_best else []
        if not any(better) and not self.config.keep_checkpoints:
            return
        networks = {name: value.cpu().clone() for name, value in acting().items()}
        if any(better):
            assert scores is not None
            self._keep_best(step, scores, better, networks=networks)
        if self.config.keep_checkpoints and networks:
            self.policies[step] = networks
            for old in sorted(self.policies)[: -self.config.keep_checkpoints]:
                del self.policies[old]

    def _better(self, scores: Sequence[float]) -> list[bool]:
        """Whether each member is better than at its best evaluation since they are kept."""
        if not self.best:
            self.best |= {"step": [0] * len(scores), "score": [-np.inf] * len(scores)}
        return [new > old for new, old in zip(scores, self.best["score"], strict=True)]

    def _keep_best(
        self, step: int, scores: Sequence[float], better: Sequence[bool], *, networks: Mapping[str, Tensor]
    ) -> None:
        """Take over step, score and networks of the members that are better."""
        best = self.best
        if networks:
            kept = best.setdefault("networks", {name: value.clone() for name, value in networks.items()})
            for name, value in kept.items():
                value[list(better)] = networks[name][list(better)]
        best["step"] = [step if new else old for new, old in zip(better, best["step"], strict=True)]
        best["score"] = [new if took else old for took, new, old in zip(better, scores, best["score"], strict=True)]
