"""Trials that differ in their seeds alone, read as one: ``--extend`` trains further seeds as a pack of their own."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffcps.runs.plan import unseeded
from diffcps.runs.status import StatusFile
from diffcps.runs.trial import Trial

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Joined(Trial):
    """Several packs of one trial. Its members are those of all, numbered in that order; key and folder are the first one's."""

    parts: tuple[Trial, ...] = ()

    @property
    def speed(self) -> float | None:
        """Gradient steps per second of one of its packs, all members of that at once: the mean over packs."""
        known = [part.speed for part in self.parts if part.speed is not None]
        return statistics.fmean(known) if known else None

    def rows(self, name: str, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """The rows of all parts."""
        import pandas as pd

        found, first = [], 0
        for part in self.parts:
            own = part.rows(name, columns)
            if not own.empty:
                found.append(own.assign(member=own["member"] + first))
            first += part.seeds
        return pd.concat(found, ignore_index=True).sort_values("step", kind="stable") if found else pd.DataFrame()


def joined(trials: Iterable[Trial]) -> list[Trial]:
    """The trials of known configuration; complete trials that differ in their seeds alone are joined into one.

    An incomplete trial is left out beside a complete one of the same row; it will be added when complete.
    """
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.stored is None:
            continue
        one = unseeded(trial.stored)
        name = trial.key if one is None else f"alike {one.key}"
        seeds = {member.seed for member in trial.stored.members}
        if any(seeds & {member.seed for member in other.config.members} for other in groups.get(name, [])):
            name = trial.key
        groups.setdefault(name, []).append(trial)
    found: list[Trial] = []
    for group in groups.values():
        complete = [trial for trial in group if trial.state == "complete"]
        found += [_one(complete)] if len(complete) > 1 else complete or group
    return found


def _one(parts: Sequence[Trial]) -> Joined:
    first = parts[0]
    members = tuple(member for part in parts for member in part.config.members)
    seconds: Counter[str] = Counter()
    for part in parts:
        seconds.update(part.status.get("seconds") or {})
    notes = [note for part in parts for note in part.notes]
    status: StatusFile = {**first.status, "seconds": dict(seconds), "notes": notes}
    # of some members alone
    status.pop("last", None)
    status.pop("best", None)
    stored = first.config.replaced(members=members)
    return Joined(
        first.key, first.folder, first.state, stored, status=status, updated=first.updated, parts=tuple(parts)
    )
