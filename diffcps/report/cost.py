"""What trials cost: speed, wall and device time, and what the time went to."""

from collections.abc import Sequence

import numpy as np

from diffcps.report.collect import Trial
from diffcps.report.numbers import duration

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
        f"Speed: {_range(rates, '{:.3g}')} gradient steps per second, all seeds of a trial at once; {duration(total)} over "
        f"all trials, {duration(sum(map(device_time, timed)))} of it gradient steps."
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
    share = f"learning {100 * learner_share(trial):.0f} % of {duration(wall(trial))}"
    return share + (f"; {', '.join(others)}" if others else "")


def _brief(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 9.95 else duration(seconds)


def _range(values: Sequence[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"
