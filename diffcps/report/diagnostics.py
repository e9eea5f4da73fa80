"""Whether a trial did what its equations say: the constraint, the multiplier, the critic's estimate."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffcps.report.collect import Trial


class Diagnosis(NamedTuple):
    """Numbers of one trial, means over its seeds; nan where nothing was recorded."""

    behaviour_loss: float
    """Behaviour loss L of the newest row."""
    bound: float
    """κ."""
    ratio: float
    """L/κ of the newest row, seed by seed before the mean."""
    violations: float
    """Share of all rows, over all seeds, in which L is above κ."""
    late_violations: float
    """The same over the second half of training."""
    multiplier: float
    """λ of the newest row."""
    q_value: float
    """The critic's mean estimate of the policy's own actions in states of the data, newest row."""
    discounted: float
    """What the newest evaluation's return comes to as a discounted sum; see ``discounted``."""
    returned: float
    """Raw return of the newest evaluation."""


def diagnose(trial: Trial) -> Diagnosis:
    """The diagnosis of one trial, whatever state it is in."""
    steps, losses = trial.metric("behaviour_loss")
    bounds = np.array([member.target_kl for member in trial.config.members])
    known = ~np.isnan(losses).any(axis=1)
    steps, losses = steps[known], losses[known]
    above = losses > bounds
    late = above[steps > trial.config.steps / 2]
    estimates = discounted(trial)
    return Diagnosis(
        behaviour_loss=trial.newest("behaviour_loss"),
        bound=float(bounds.mean()),
        ratio=float((losses[-1] / bounds).mean()) if len(losses) and (bounds > 0).all() else float("nan"),
        violations=float(above.mean()) if above.size else float("nan"),
        late_violations=float(late.mean()) if late.size else float("nan"),
        multiplier=trial.newest("lambda"),
        q_value=trial.newest("policy_q"),
        discounted=float(estimates[-1].mean()) if len(estimates) else float("nan"),
        returned=float(trial.evaluations.returns[-1].mean()) if len(estimates) else float("nan"),
    )


def discounted(trial: Trial) -> NDArray[np.float64]:
    """Returns of all evaluations on the scale of the critic, mean over episodes, ``[n, K]``.

    Only the sum R and the length H of an episode are on record, so its reward is taken to come evenly:
    R/H · (1 − γ^H)/(1 − γ), with the reward transform that the critic learns from. An estimate far above it hints at a critic
    that overestimates; it is no proof, for the critic is asked in states of the data.
    """
    _, returns, lengths = trial.evaluations
    if not len(returns):
        return np.zeros((0, trial.seeds))
    rewards = returns / np.maximum(lengths, 1.0)
    if trial.task.reward_transform == "antmaze":
        rewards = 4.0 * (rewards - 0.5)
    discount = trial.config.algorithm.discount
    weight = lengths if discount == 1.0 else (1.0 - discount**lengths) / (1.0 - discount)
    return (rewards * weight).mean(axis=2)
