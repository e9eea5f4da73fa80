"""Numbers as text, the same in every kind of output."""

import math

from diffcps.report.groups import Estimate
from diffcps.report.rows import Row, Score


def number(value: float, digits: int = 1) -> str:
    """``12.3``; a dash for what does not exist."""
    return "–" if not math.isfinite(value) else f"{value:.{digits}f}"


def significant(value: float) -> str:
    """Three digits or more, ``0.0512``, ``13.4``, ``1451``; a dash for what does not exist."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def signed(value: float, digits: int = 1) -> str:
    """``+1.2`` or ``−0.3``, a difference; a dash for what does not exist."""
    return "–" if not math.isfinite(value) else f"{value:+.{digits}f}".replace("-", "−")


def percent(share: float) -> str:
    """``12 %``; a dash for what does not exist."""
    return "–" if not math.isfinite(share) else f"{100 * share:.0f} %"


def interval(low: float, high: float, digits: int = 1) -> str:
    """``[90.8, 93.1]``; nothing where there is none."""
    return "" if math.isnan(low) else f"[{low:.{digits}f}, {high:.{digits}f}]"


def score(value: Score | None) -> str:
    """``92.0 ± 1.5``; without a spread for a single seed, a dash before the first evaluation."""
    if value is None:
        return "–"
    return number(value.mean) if math.isnan(value.std) else f"{number(value.mean)} ± {number(value.std)}"


def score_interval(value: Score | None) -> str:
    """The interval of a score; nothing where there is none."""
    return "" if value is None else interval(value.low, value.high)


def estimate(value: Estimate, digits: int = 1) -> str:
    """``92.0 [90.8, 93.1]``."""
    return f"{number(value.value, digits)} {interval(value.low, value.high, digits)}".rstrip()


def cell(row: Row | None) -> str:
    """The last score of a row in a grid, with its state while it is not complete."""
    if row is None or row.last is None:
        return row.trial.state if row else "–"
    return score(row.last) + ("" if row.trial.state == "complete" else f" ({row.trial.state})")


def stacked(*lines: str) -> str:
    """One cell of several lines, without the empty ones."""
    return "\n".join(filter(None, lines))


def duration(seconds: float) -> str:
    """``48 s``, ``12 min``, ``3.4 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
