"""What trials cost: speed, wall time, device time, and where the time went."""

from collections.abc import Mapping, Sequence

import numpy as np

from diffcps.runs.trial import Trial
from diffcps.text import duration

_TRIALS_SHOWN = 3
"""Up to this many trials are listed one by one; otherwise the worst and the median are."""


def rate(trial: Trial) -> float:
    """``Trial.speed``; nan before the first step."""
    return float("nan") if trial.speed is None else trial.speed


def learner_share(trial: Trial) -> float:
    """Learner time divided by the trial's wall time."""
    return float(_seconds(trial)["learning"] / wall(trial)) if wall(trial) > 0 else float("nan")


def wall(trial: Trial) -> float:
    """Seconds from the request for the trial to its end, over all attempts."""
    return float(sum(_seconds(trial).values()))


def device_time(trial: Trial) -> float:
    """Seconds of gradient steps on the trial's device, without steps that were repeated after an interruption."""
    return float(_seconds(trial).get("learning", 0.0))


def summary(started: Sequence[Trial]) -> list[str]:
    """Speed and time in a few lines; none before the first gradient step."""
    rates = [rate(trial) for trial in started if np.isfinite(rate(trial))]
    if not rates:
        return []
    timed = sorted((trial for trial in started if wall(trial) > 0), key=learner_share)
    total = sum(wall(trial) for trial in timed)
    lines = [
        f"Speed: {_range(rates, '{:.3g}')} gradient steps per second, all seeds of a trial at once. All trials took "
        f"{duration(total)}, of which {duration(sum(map(device_time, timed)))} were gradient steps."
    ]
    if len(timed) <= _TRIALS_SHOWN:
        return lines + [f"Time of {trial.key}: {spent(trial)}." for trial in timed]
    worst, median = timed[0], timed[(len(timed) - 1) // 2]
    return [
        *lines,
        f"Time of the trial with the smallest share of learning, {worst.key}: {spent(worst)}.",
        f"Time of the trial with the median share of learning: {spent(median)}.",
    ]


def spent(trial: Trial) -> str:
    """Where a trial's time went, largest part first: ``learning 93 % of 512 s; evaluation 21 s, start 6 s, …``."""
    seconds = {name: value for name, value in _seconds(trial).items() if name != "learning" and value >= 0.05}
    others = [f"{name} {_brief(seconds[name])}" for name in sorted(seconds, key=lambda name: -seconds[name])]
    share = f"learning {100 * learner_share(trial):.0f} % of {duration(wall(trial))}"
    return share + (f"; {', '.join(others)}" if others else "")


def _seconds(trial: Trial) -> Mapping[str, float]:
    """What a trial's time went to -> seconds; empty where its status cannot be read.

    Where it shares a pack with other trials, gradient steps count by its part of the members, and what it waits for is theirs.
    """
    found: Mapping[str, float] = trial.status.get("seconds", {})
    shared = trial.environment.get("together")
    if shared is None or not found:
        return found
    own = found["learning"] * trial.seeds / shared["members"]
    return {name: value for name, value in found.items() if name != "waiting"} | {"learning": own}


def _brief(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 9.95 else duration(seconds)


def _range(values: Sequence[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"
