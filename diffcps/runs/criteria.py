"""What policies can be chosen by: their last score, or a number that needs no environment."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffcps.errors import UserError, nearest
from diffcps.stats import FloatArray

if TYPE_CHECKING:
    from diffcps.runs.trial import Trial

SCORE = "last"
"""What a search goes by instead of a criterion where there is an environment: the score of the last evaluation."""


@dataclass(frozen=True)
class Criterion:
    """A number of a trained policy by which it may be chosen."""

    column: str
    """Of ``measures.csv`` if a measure gives it, else of ``metrics.csv``."""
    sign: int
    """1: a higher number is better, −1: a lower one."""
    says: str
    needs: str = ""
    """The measure that gives it; empty for a metric of training."""
    held_out: bool = False
    """Whether it needs data that are held out of training."""
    less: str = ""
    """Another metric that is taken from it; empty for none."""
    moved_by: tuple[str, ...] = ()
    """Settings that change the number directly: a search over them by it would only find the end of their range."""

    @property
    def goal(self) -> str:
        """What a search by it looks for."""
        return f"the {'highest' if self.sign > 0 else 'lowest'} {self.says}"


CRITERIA = {
    "fqe": Criterion("fqe_value", 1, "fitted Q evaluation at first states", needs="fqe"),
    "critic": Criterion("critic_value", 1, "the policy's own critic at first states", needs="critic"),
    "td": Criterion(
        "critic_error",
        -1,
        "TD error of its critic, on held-out data if there are any",
        needs="critic",
        moved_by=("discount",),
    ),
    "fqe-error": Criterion("fqe_error", -1, "TD error of the fitted Q on held-out data", needs="fqe", held_out=True),
    "behaviour": Criterion("behaviour_loss", -1, "behaviour loss"),
    "excess": Criterion("constraint", -1, "behaviour loss above κ", less="target_kl", moved_by=("target_kl", "slack")),
    "lambda": Criterion("lambda", -1, "λ: a constraint that is met needs less of it"),
}
"""Those that need no environment."""
UNITS = {
    "critic": ("algorithm", "reward_transform", "discount"),
    # a behaviour loss is the mean over the steps of the chain, each fitted as well as it can be; a Gaussian's is in nats
    "behaviour": ("algorithm", "policy", "diffusion_steps"),
    "excess": ("algorithm", "policy", "diffusion_steps", "constraint"),
    "lambda": ("algorithm", "policy", "diffusion_steps", "constraint"),
}
"""Criterion -> settings that two trials must have in common to be ordered by it."""


def find(name: str) -> Criterion:
    """The criterion of that name. Raises ``UserError`` if it is none."""
    if name not in CRITERIA:
        known = ", ".join(CRITERIA)
        raise UserError(f"no criterion is called {name!r}{nearest(name, CRITERIA) or '.'} Known: {known}.")
    return CRITERIA[name]


def along(trial: "Trial", name: str) -> tuple[NDArray[np.int64], FloatArray]:
    """Steps ``[n]`` and values ``[n, K]`` of a criterion along a trial, higher is better; n = 0 where the trial has none."""
    if name == SCORE:
        return trial.evaluations.steps, trial.scores
    criterion = find(name)
    if criterion.needs:
        if criterion.column not in trial.measured:
            return np.zeros(0, dtype=np.int64), np.zeros((0, trial.seeds))
        steps, values = trial.measure(criterion.column)
    else:
        steps, values = trial.metric(criterion.column)
        if criterion.less:
            lower, bound = trial.metric(criterion.less)
            steps = steps[: len(lower)]  # none of either, or those of all rows
            # the row in which cloning ends has the mean of all its steps of one, and of its last ones of the other
            begins = np.isnan(np.roll(bound, 1, axis=0))
            values = np.where(begins[: len(steps)], np.nan, values[: len(lower)] - bound[: len(steps)])
    return steps, criterion.sign * values


def newest(trial: "Trial", name: str) -> float:
    """The newest value of a criterion, mean over members, higher is better; nan where the trial has none."""
    if name == SCORE and (found := trial.number("last")) is not None:  # the status has it, so no row need be read
        return found
    _, values = along(trial, name)
    return float(values[-1].mean()) if len(values) else float("nan")
