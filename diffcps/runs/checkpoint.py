"""What a checkpoint of a run folder holds: enough to continue a trial as if nothing had happened."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from torch import Tensor


class LearnerState(TypedDict):
    """What gradient steps change. Tensors have the members first; those without dimensions are the same for all."""

    step: int
    """Gradient steps so far."""
    taken: dict[str, int]
    """Steps of each kind in the unfinished row."""
    pack: "dict[str, Tensor]"
    """Networks, copies, moments of optimisers, keys and the sums of the unfinished row, by name."""


class Best(TypedDict, total=False):
    """The policies of each member's best evaluation."""

    step: list[int]
    """Of that evaluation, ``[K]``; 0 before the first."""
    score: list[float]
    """Its score, ``[K]``."""
    networks: "dict[str, Tensor]"
    """What acts, ``[K, …]``."""


class BegunEvaluation(TypedDict):
    """An evaluation that was under way: a trial that resumes does it again."""

    step: int
    networks: "dict[str, Tensor]"
    """What acted, ``[K, …]``."""
    rows: Sequence[tuple[int, dict[str, Any]]]
    """Rows that sinks are still to be shown, with their steps."""


class Checkpoint(TypedDict, total=False):
    """The content of a checkpoint file; the first three are always there."""

    learner: LearnerState
    scores: list[list[float]]
    """Of every evaluation so far, ``[evaluations, K]``."""
    seconds: Mapping[str, float]
    """How the time was spent, by purpose."""
    best: Best
    """Only if the best policies are kept."""
    policies: "dict[int, dict[str, Tensor]]"
    """Step of an evaluation -> networks ``[K, …]`` that act; only if those of the newest evaluations are kept."""
    pruned: str
    """Why the trial was ended early; only if it was."""
    evaluation: BegunEvaluation
    """Only if one was under way."""
