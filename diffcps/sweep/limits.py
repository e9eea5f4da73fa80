"""Cores and memory that this process may use, where those are fewer than the machine has.

Ray looks at the limits of a whole container, and not at those of a group within, which SLURM and systemd set, nor at the cores
to which a process is bound.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/proc/self/cgroup")
ROOT = Path("/sys/fs/cgroup")


def cores(groups: Path = GROUPS, root: Path = ROOT) -> int:
    """Cores that this process may use: those it is bound to, and no more than the quotas of its control groups; at least 1."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _folders("cpu", groups, root) if (quota := _quota(folder)) is not None]
    return max(1, math.floor(min([bound, *quotas])))


def memory(groups: Path = GROUPS, root: Path = ROOT) -> int | None:
    """Bytes of RAM that the control groups of this process leave it; ``None`` without a limit below the machine's."""
    names = "memory.max", "memory.limit_in_bytes"
    limits = [
        number for folder in _folders("memory", groups, root) for name in names if (number := _number(folder / name))
    ]
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return min((limit for limit in limits if limit < machine), default=None)


def _folders(controller: str, groups: Path, root: Path) -> Iterator[Path]:
    """The folders of the groups that this process is in, innermost first; of either version of control groups."""
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            base = root if not controllers else root / controllers
            inner = base / path.strip("/")
            yield from (inner, *(above for above in inner.parents if above.is_relative_to(base)))


def _quota(folder: Path) -> float | None:
    """Cores by the quota of a group; ``None`` if it has none."""
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        quota, period = str(_number(folder / "cpu.cfs_quota_us")), str(_number(folder / "cpu.cfs_period_us"))
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _number(file: Path) -> int | None:
    """The positive number in a file; ``None`` where there is none, as for no limit."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) > 0 else None
