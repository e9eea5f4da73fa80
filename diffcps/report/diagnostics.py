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
    """κ of the newest row; nan for an algorithm that holds nothing to it."""
    ratio: float
    """What κ bounds over κ, newest row, seed by seed before the mean."""
    violations: float
    """Share of all rows, over all seeds, in which what κ bounds is above it."""
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
    steps, held, bounds = bounded(trial)
    above = held > bounds
    late = above[steps > trial.config.steps / 2]
    estimates = discounted(trial)
    return Diagnosis(
        behaviour_loss=trial.newest("behaviour_loss"),
        bound=float(bounds[-1].mean()) if len(bounds) else float("nan"),
        ratio=float((held[-1] / bounds[-1]).mean()) if len(held) and (bounds[-1] > 0).all() else float("nan"),
        violations=float(above.mean()) if above.size else float("nan"),
        late_violations=float(late.mean()) if late.size else float("nan"),
        multiplier=trial.newest("lambda"),
        q_value=trial.newest("policy_q"),
        discounted=float(estimates[-1].mean()) if len(estimates) else float("nan"),
        returned=float(trial.evaluations.returns[-1].mean()) if len(estimates) else float("nan"),
    )


def bounded(trial: Trial) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Steps ``[n]``, what the multiplier holds and the κ it is held to, ``[n, K]`` each, where all members have them.

    That is the behaviour loss unless the trial bounds another quantity. Without a λ there is nothing: no constraint.
    """
    steps, losses = trial.metric("behaviour_loss")
    _, multipliers = trial.metric("lambda")
    if not np.isfinite(multipliers).any():
        return np.zeros(0, dtype=np.int64), np.zeros((0, trial.seeds)), np.zeros((0, trial.seeds))
    # run folders from before κ could be set on the way have it in their settings only
    held, bounds = trial.metric("constraint")[1], trial.metric("target_kl")[1]
    held = held if np.isfinite(held).any() else losses
    constant = np.broadcast_to([member.target_kl for member in trial.config.members], losses.shape)
    bounds = bounds if np.isfinite(bounds).any() else constant
    known = np.isfinite(held).all(axis=1) & np.isfinite(bounds).all(axis=1)
    return steps[known], held[known], bounds[known]


def bounds_loss(trial: Trial) -> bool:
    """Whether κ is the bound of the behaviour loss on record, the online policy's, not of another quantity."""
    algorithm = trial.config.algorithm
    return algorithm.constraint == "behaviour_loss" and algorithm.held_policy == "online"


def discounted(trial: Trial) -> NDArray[np.float64]:
    """Returns of all evaluations on the scale of the critic, mean over episodes, ``[n, K]``.

    Only the sum R and the length H of an episode are on record, so its reward is taken to come evenly:
    R/H · (1 − γ^H)/(1 − γ), with the reward transform that the critic learns from. An estimate far above it hints at a critic
    that overestimates; it is no proof, for the critic is asked in states of the data.
    """
    _, returns, lengths = trial.evaluations
    discount = trial.config.algorithm.discount
    found = []
    for gained, length in zip(returns, lengths, strict=True):
        rewards = gained / np.maximum(length, 1.0)
        if trial.task.reward_transform == "antmaze":
            rewards = 4.0 * (rewards - 0.5)
        found.append(rewards * (length if discount == 1.0 else (1.0 - discount**length) / (1.0 - discount)))
    return trial.evaluations.mean(found, trial.seeds)
