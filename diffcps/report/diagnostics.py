"""Whether a trial did what its equations say: the constraint, the multiplier, the critic's estimate."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffcps.runs.frames import Trial
from diffcps.text import duration_numbers


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
    steps, multipliers = trial.metric("lambda")
    if not np.isfinite(multipliers).any():
        return np.zeros(0, dtype=np.int64), np.zeros((0, trial.seeds)), np.zeros((0, trial.seeds))
    held, bounds = trial.metric("constraint")[1], trial.metric("target_kl")[1]
    known = np.isfinite(held).all(axis=1) & np.isfinite(bounds).all(axis=1)
    return steps[known], held[known], bounds[known]


def bounds_loss(trial: Trial) -> bool:
    """Whether κ is the bound of the behaviour loss on record, the online policy's, not of another quantity."""
    constraint, policy = trial.config.value("constraint"), trial.config.value("constraint_policy")
    return bool(constraint == "behaviour_loss" and policy == "online")


def discounted(trial: Trial) -> NDArray[np.float64]:
    """Returns of all evaluations on the scale of the critic, mean over episodes, ``[n, K]``.

    Only the sum R and the length H of an episode are on record, so its reward is taken to come evenly:
    R/H · (1 − γ^H)/(1 − γ), with the reward transform that the critic learns from. An estimate far above it hints at a critic
    that overestimates; it is no proof, for the critic is asked in states of the data.
    """
    _, returns, lengths = trial.evaluations
    discount = trial.config.value("discount") or 0.0
    found = []
    for gained, length in zip(returns, lengths, strict=True):
        rewards = gained / np.maximum(length, 1.0)
        if trial.task.reward_transform == "antmaze":
            rewards = 4.0 * (rewards - 0.5)
        found.append(rewards * (length if discount == 1.0 else (1.0 - discount**length) / (1.0 - discount)))
    return trial.evaluations.mean(found, trial.seeds)


# What trials cost: speed, wall and device time, and what the time went to.

_TRIALS_SHOWN = 3
"""Most trials whose time is told one by one; of more, the worst and the median."""


def rate(trial: Trial) -> float:
    """Gradient steps per second of learning, all K members at once, over the whole trial; nan before there is one."""
    learning = trial.status.get("seconds", {}).get("learning", 0.0)
    return float(trial.status.get("step", 0) / learning) if learning > 0 else float("nan")


def learner_share(trial: Trial) -> float:
    """Learner time divided by the trial's wall time."""
    seconds = trial.status.get("seconds", {})
    return float(seconds["learning"] / wall(trial)) if wall(trial) > 0 else float("nan")


def wall(trial: Trial) -> float:
    """Seconds from when the trial was asked for to its end, over all its attempts."""
    return float(sum(trial.status.get("seconds", {}).values()))


def device_time(trial: Trial) -> float:
    """Seconds of gradient steps on the trial's device, those that an interruption made it repeat left out."""
    return float(trial.status.get("seconds", {}).get("learning", 0.0))


def summary(started: Sequence[Trial]) -> list[str]:
    """Speed and time in a few lines; none before anything was learned."""
    rates = [rate(trial) for trial in started if np.isfinite(rate(trial))]
    if not rates:
        return []
    timed = sorted((trial for trial in started if wall(trial) > 0), key=learner_share)
    total = sum(wall(trial) for trial in timed)
    lines = [
        f"Speed: {_range(rates, '{:.3g}')} gradient steps per second, all seeds of a trial at once; "
        f"{duration_numbers(total)} over all trials, {duration_numbers(sum(map(device_time, timed)))} of it gradient steps."
    ]
    if len(timed) <= _TRIALS_SHOWN:
        return lines + [f"Time of {trial.key}: {spent(trial)}." for trial in timed]
    worst, median = timed[0], timed[(len(timed) - 1) // 2]
    return [
        *lines,
        f"Time of the trial with the smallest share of learning, {worst.key}: {spent(worst)}.",
        f"Time of the trial with the median share: {spent(median)}.",
    ]


def spent(trial: Trial) -> str:
    """What a trial's time went to: ``learning 93 % of 512 s; evaluation 21 s, start 6 s, …``, the largest first."""
    seconds = {name: value for name, value in trial.status["seconds"].items() if name != "learning" and value >= 0.05}
    others = [f"{name} {_brief(seconds[name])}" for name in sorted(seconds, key=lambda name: -seconds[name])]
    share = f"learning {100 * learner_share(trial):.0f} % of {duration_numbers(wall(trial))}"
    return share + (f"; {', '.join(others)}" if others else "")


def _brief(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 9.95 else duration_numbers(seconds)


def _range(values: Sequence[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"
