"""``diffcps sweeps``: one line a sweep."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from diffcps.cli.sweeps.printing import columns, how_to_go_on, line, moment, score
from diffcps.distributed.catalogue import SweepEntry
from diffcps.distributed.display import duration
from diffcps.terminal import STYLES, Column


def show(sweeps: Sequence[SweepEntry], results: str, console: Console) -> None:
    """Print the sweeps of a results folder, what is wrong with any, and how to go on with the newest unfinished one."""
    if not sweeps:
        line(console, f"There is no sweep in {results}. Sweeps are started with python tune/sweep_d4rl.py.")
        return
    left = [sweep.seconds_left() for sweep in sweeps]
    counts = [_counts(sweep) for sweep in sweeps]
    number = {name: [str(count[name] or "") for count in counts] for name in counts[0]}
    of = [
        f"{count['complete']}/{sweep.total}" if sweep.plan else "" for count, sweep in zip(counts, sweeps, strict=True)
    ]
    columns(
        console,
        [
            Column("sweep", [sweep.name for sweep in sweeps], right=False),
            Column("state", [sweep.state for sweep in sweeps], right=False),
            Column("preset", [sweep.plan.preset if sweep.plan else "" for sweep in sweeps], right=False, drop=1),
            Column("done", of),
            Column("running", number["running"], drop=5),
            Column("failed", number["failed"], drop=6),
            Column("to go", number["to_go"], drop=4),
            Column("last", [score(sweep.mean("last")) for sweep in sweeps], drop=3),
            Column("best (oracle)", [score(sweep.mean("best")) for sweep in sweeps], drop=2),
            Column("time left", ["" if seconds is None else duration(seconds) for seconds in left]),
            Column("touched", [moment(sweep.touched) for sweep in sweeps]),
        ],
        [STYLES[sweep.state] for sweep in sweeps],
    )
    if any(sweep.mean("last") is not None for sweep in sweeps):
        line(console, "last, best: mean over the trials that have been evaluated.", "dim")
    for sweep in sweeps:
        if sweep.trouble:
            line(console, f"{sweep.name}: {sweep.trouble}", "red")
    for advice in [advice for sweep in sweeps if (advice := how_to_go_on(sweep))][:1]:
        line(console, advice)
    line(console, f"Trial by trial: diffcps sweeps show {sweeps[0].name} --results {results}", "dim")


def record(sweep: SweepEntry) -> dict[str, Any]:
    """Plain values."""
    return {
        "name": sweep.name,
        "folder": sweep.where,
        "state": sweep.state,
        "preset": sweep.plan.preset if sweep.plan else None,
        "counts": {**_counts(sweep), "total": sweep.total},
        "last_mean": sweep.mean("last"),
        "best_oracle_mean": sweep.mean("best"),
        "seconds_left": sweep.seconds_left(),
        "touched": sweep.touched,
        "held_by": sweep.holder.who if sweep.holder else None,
        "held_since": sweep.holder.since if sweep.holder else None,
        "resume": sweep.resume if how_to_go_on(sweep) else None,
        "trouble": sweep.trouble or None,
    }


def _counts(sweep: SweepEntry) -> dict[str, int]:
    """Trials that are done, being worked on, in need of a person, and those that only have to be gone on with."""
    count = sweep.counts
    return {
        "complete": count["complete"],
        "running": count["running"],
        "failed": count["failed"] + count["damaged"],
        "to_go": count["pending"] + count["stopped"] + count["interrupted"],
    }
