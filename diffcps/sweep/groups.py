"""Which trials of a sweep train together: those of a group in one worker, as one pack where its memory allows."""

from collections.abc import Callable, Hashable, Sequence

from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.runs.alike import alike
from diffcps.runs.flags import MachineFlags, PackTrials
from diffcps.runs.plan import Plan
from diffcps.sweep.resources import Resources
from diffcps.text import counted
from diffcps.training.workers import shares

MOST_MEMBERS = 75
"""Members of the largest pack that was measured. On a GPU the steps per second of all members still grow up to there."""

Groups = list[tuple[RunConfig, ...]]


def check(plan: Plan, flags: MachineFlags) -> None:
    """Raise ``UserError`` where a worker would have no seed to train, or trials cannot share packs as the flags say."""
    most, workers = flags.pack_trials, flags.workers_per_trial
    _check_workers(plan, workers)
    if most == "auto":
        return
    if most < 1:
        raise UserError(f"--pack-trials {most}: a pack has at least one trial.")
    if most > 1 and plan.search is not None:
        raise UserError(
            f"--pack-trials {most}: a search chooses each trial by the results of others, so each trains by itself. Leave it out."
        )
    if most > 1 and workers > 1:
        raise UserError(
            f"--pack-trials {most} with --workers-per-trial {workers}: a pack of several trials trains in one worker. Leave one "
            "of the two out."
        )


def grouped(
    trials: Sequence[RunConfig],
    pack_trials: PackTrials,
    resources: Resources,
    alike: Callable[[RunConfig], Hashable] = alike,
) -> Groups:
    """Every trial in one group. Groups, and the trials in them, are in the order of ``trials``.

    With a number, a group has at most so many trials. With ``auto``, trials on GPUs train in as few groups as leave no place
    for one empty and have at most ``MOST_MEMBERS`` members; a single trial may have more. On a CPU, and with several workers,
    each trains alone.

    Args:
        trials: those to be run.
        pack_trials: the flag ``--pack-trials``.
        resources: of a group, and groups at once.
        alike: what trials that can train together have in common.
    """
    most = 1 if pack_trials == "auto" and (resources.workers > 1 or not resources.gpus) else pack_trials
    if most == 1:
        return [(trial,) for trial in trials]
    kinds: dict[Hashable, list[RunConfig]] = {}
    for trial in trials:
        kinds.setdefault(alike(trial), []).append(trial)
    classes = list(kinds.values())
    if most == "auto":
        found = _as_few_as_fit(classes, least=min(resources.concurrent, len(trials)))
    else:
        found = [group for each in classes for group in _parts(each, -(-len(each) // most))]
    place = {trial.key: number for number, trial in enumerate(trials)}
    return sorted(found, key=lambda group: place[group[0].key])


def _as_few_as_fit(classes: Sequence[Sequence[RunConfig]], least: int) -> Groups:
    """Each class in groups of at most ``MOST_MEMBERS`` members, at least so many in all: the largest are divided first."""
    divided = [_divided(each, 1) for each in classes]
    while sum(map(len, divided)) < least:
        several = [number for number, groups in enumerate(divided) if len(groups) < len(classes[number])]
        largest = max(several, key=lambda number: max(map(members, divided[number])))
        divided[largest] = _divided(classes[largest], len(divided[largest]) + 1)
    return [group for groups in divided for group in groups]


def _divided(trials: Sequence[RunConfig], least: int) -> Groups:
    """The trials in at least so many groups, and in as few as have no more than ``MOST_MEMBERS`` members."""
    ways = (_parts(trials, parts) for parts in range(least, len(trials) + 1))
    return next(way for way in ways if all(len(group) == 1 or members(group) <= MOST_MEMBERS for group in way))


def _parts(trials: Sequence[RunConfig], parts: int) -> Groups:
    """The trials in so many groups, in order, of sizes that differ by at most one."""
    return [tuple(trials[share]) for share in shares(len(trials), parts)]


def members(group: Sequence[RunConfig]) -> int:
    """Policies that train together."""
    return sum(len(trial.members) for trial in group)


def keys(groups: Groups) -> dict[str, tuple[str, ...]]:
    """The key of the first trial of each group of several -> the keys of all."""
    return {group[0].key: tuple(trial.key for trial in group) for group in groups if len(group) > 1}


def packed(groups: Groups) -> str:
    """How trials are packed, in words; empty where each trains alone."""
    trials = sum(map(len, groups))
    return "" if trials == len(groups) else f"{counted(trials, 'trial')} in {counted(len(groups), 'pack')}"


def _check_workers(plan: Plan, workers: int) -> None:
    """Raise ``UserError`` when a worker would have no seed to train."""
    if workers < 1:
        raise UserError(f"--workers-per-trial {workers}: a trial needs at least one.")
    seeds = min(len(trial.members) for trial in plan.trials)
    if workers > seeds:
        raise UserError(
            f"--workers-per-trial {workers}: a trial here has only {seeds} seed{'s' if seeds > 1 else ''}, and each worker "
            "trains at least one. Lower it, or ask for more --seeds."
        )
