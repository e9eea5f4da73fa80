"""Trials that differ in their seeds alone, read as one: ``--extend`` trains further seeds as a pack of their own."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffcps.config import RunConfig
from diffcps.config.run import Member
from diffcps.runs.trials import Trial

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Joined(Trial):
    """Several packs of one trial. Its members are those of all, numbered in that order; key and folder are the first one's."""

    parts: tuple[Trial, ...] = ()

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
    """The trials whose configuration is known, where complete ones that differ in their seeds alone are one trial."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.stored is None:
            continue
        one = unseeded(trial.stored) if trial.state == "complete" else None
        name = trial.key if one is None else f"alike {one.key}"
        seeds = {member.seed for member in trial.stored.members}
        if any(seeds & {member.seed for member in other.config.members} for other in groups.get(name, [])):
            name = trial.key
        groups.setdefault(name, []).append(trial)
    return [_one(group) if len(group) > 1 else group[0] for group in groups.values()]


def unseeded(trial: RunConfig) -> RunConfig | None:
    """The trial with seed 0 alone: the same for trials that differ in their seeds; ``None`` if its members differ in more."""
    first, *others = (member.settings for member in trial.members)
    return None if any(other != first for other in others) else trial.replaced(members=(Member(0, first),))


def _one(parts: Sequence[Trial]) -> Joined:
    first = parts[0]
    members = tuple(member for part in parts for member in part.config.members)
    seconds: Counter[str] = Counter()
    for part in parts:
        seconds.update(part.status.get("seconds") or {})
    status: dict[str, Any] = {
        **first.status,
        "seconds": dict(seconds),
        "notes": [note for part in parts for note in part.notes],
    }
    stored = first.config.replaced(members=members)
    return Joined(
        first.key, first.folder, first.state, stored, status=status, updated=first.updated, parts=tuple(parts)
    )
