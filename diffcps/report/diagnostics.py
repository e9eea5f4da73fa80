"""Whether a trial did what its equations say: constraint, multiplier, critic's estimate."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffcps.algorithms.settings import REWARD_SCALES
from diffcps.runs.trial import Trial


class Diagnosis(NamedTuple):
    """Numbers of one trial, means over seeds; nan if they were not recorded."""

    behaviour_loss: float
    """Behaviour loss L of the newest row."""
    bound: float
    """κ of the newest row; nan for an algorithm without a constraint."""
    ratio: float
    """Bounded quantity divided by κ, seed by seed, newest row."""
    violations: float
    """Share of all policy updates, over all seeds, in which the bounded quantity of the batch exceeds κ."""
    late_violations: float
    """The same over the second half of training."""
    multiplier: float
    """λ, as the policy's loss uses it, of the newest row that has one: mean over the row's steps."""
    q_value: float
    """Mean value that the critic gives to the policy's own actions in states of the data, newest row."""
    discounted: float
    """Return of the newest evaluation as a discounted sum; see ``discounted``."""
    returned: float
    """Raw return of the newest evaluation."""


def diagnose(trial: Trial) -> Diagnosis:
    """The diagnosis of one trial in any state."""
    steps, values, bounds = bounded(trial)
    at, above = trial.metric("violation") if len(values) else (steps, values)
    # C of a diverged seed is no number, and its violation a plain 0
    known = np.isin(at, steps)
    at, above = at[known], above[known]
    late = above[at > trial.config.steps / 2]
    estimates = discounted(trial)
    return Diagnosis(
        behaviour_loss=trial.newest("behaviour_loss"),
        bound=float(bounds[-1].mean()) if len(bounds) else float("nan"),
        ratio=float((values[-1] / bounds[-1]).mean()) if len(values) and (bounds[-1] > 0).all() else float("nan"),
        violations=float(above.mean()) if above.size else float("nan"),
        late_violations=float(late.mean()) if late.size else float("nan"),
        multiplier=trial.newest("lambda"),
        q_value=trial.newest("policy_q"),
        discounted=float(estimates[-1].mean()) if len(estimates) else float("nan"),
        returned=float(trial.evaluations.returns[-1].mean()) if len(estimates) else float("nan"),
    )


def bounded(trial: Trial) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Steps ``[n]``, the bounded quantity ``[n, K]`` and κ ``[n, K]``, for the rows in which all members have them.

    Empty for an algorithm without a λ: it has no constraint.
    """
    steps, multipliers = trial.metric("lambda")
    if not np.isfinite(multipliers).any():
        return np.zeros(0, dtype=np.int64), np.zeros((0, trial.seeds)), np.zeros((0, trial.seeds))
    values, bounds = trial.metric("constraint")[1], trial.metric("target_kl")[1]
    known = np.isfinite(values).all(axis=1) & np.isfinite(bounds).all(axis=1)
    return steps[known], values[known], bounds[known]


def bounds_loss(trial: Trial) -> bool:
    """Whether κ bounds the recorded behaviour loss, that of the online policy, and not another quantity."""
    constraint, policy = trial.config.value("constraint"), trial.config.value("constraint_policy")
    return bool(constraint == "behaviour_loss" and policy == "online")


def discounted(trial: Trial) -> NDArray[np.float64]:
    """Returns of all evaluations on the scale of the critic, mean over episodes, ``[n, K]``.

    Only the return R and the length H of an episode are recorded, so its reward is spread evenly:
    R/H · (1 − γ^H)/(1 − γ), with the reward transform that the critic learns from; nan where that depends on the data.
    A critic's estimate far above it suggests overestimation. It does not prove it: the critic is evaluated in states of
    the data.
    """
    _, returns, lengths = trial.evaluations
    discount = trial.config.value("discount") or 0.0
    scale, shift = REWARD_SCALES.get(trial.config.value("reward_transform"), (math.nan, math.nan))
    found = []
    for gained, length in zip(returns, lengths, strict=True):
        rewards = scale * gained / np.maximum(length, 1.0) + shift
        found.append(rewards * (length if discount == 1.0 else (1.0 - discount**length) / (1.0 - discount)))
    return trial.evaluations.mean(found, trial.seeds)
