"""The paper's whole Table 1, in hours, from measured rates: each task's steps times five seeds."""

from collections.abc import Iterable, Sequence
from typing import Any

from diffcps.runs import presets
from diffcps.tasks.registry import TASKS, Task, get_task

from .flops import flops_per_member_step

SEEDS = 5
PAPER = [task for task in TASKS.values() if task.in_paper]


def size(task: Task) -> tuple[Any, ...]:
    """What decides the cost of a gradient step: observation, action, max-Q backup, policy frequency."""
    return task.observation_size, task.action_size, task.settings["max_q_backup"], task.settings["policy_freq"]


def distinct_sizes(known: Iterable[str]) -> list[str]:
    """A task for each size of Table 1 that none of the ``known`` has."""
    seen = {size(get_task(name)) for name in known}
    found = []
    for task in PAPER:
        if size(task) not in seen:
            seen.add(size(task))
            found.append(task.name)
    return found


def operations(task: Task) -> float:
    return flops_per_member_step(presets.official(task), task.observation_size, task.action_size)


def hours(rates: dict[str, float]) -> float:
    """Hours for Table 1 from member-steps per second by task; sizes not measured are scaled from the nearest in FLOP."""
    by_size = {size(get_task(name)): (operations(get_task(name)), rate) for name, rate in rates.items()}
    seconds = 0.0
    for task in PAPER:
        own = operations(task)
        work, rate = by_size.get(size(task)) or min(by_size.values(), key=lambda pair: abs(pair[0] - own))
        seconds += SEEDS * task.steps / (rate * work / own)
    return seconds / 3600.0


def project(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of gradient steps in; for the yardstick, if it was measured, and each precision and pack size, hours with its
    fastest engine.

    ``measured`` counts the distinct sizes of Table 1 (of which there are five) that were measured, not scaled.
    """
    if not rows:
        return []
    device = rows[0]["device"]
    plain: dict[str, float] = {}
    packs: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        if "reference_rate" in row:
            plain[row["task"]] = max(plain.get(row["task"], 0.0), row["reference_rate"])
        rates = packs.setdefault((row["precision"], row["members"]), {})
        rates[row["task"]] = max(rates.get(row["task"], 0.0), row["rate"])

    def result(program: str, precision: str, members: int, rates: dict[str, float]) -> dict[str, Any]:
        return {
            "device": device, "program": program, "precision": precision, "members": members, "hours": hours(rates),
            "measured": len({size(get_task(name)) for name in rates}),
        }  # fmt: skip

    found = [result("yardstick", "fp32", 1, plain)] if plain else []
    return found + [result("pack", *key, rates) for key, rates in sorted(packs.items())]
