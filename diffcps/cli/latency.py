"""`diffcps latency`: how long an action of a trained policy takes."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from diffcps.cli.policies import PolicyFlags
from diffcps.runs.flags import Maybe
from diffcps.text import Column, say, terminal_table

if TYPE_CHECKING:
    from diffcps.deploy.latency import Timing


@dataclass(frozen=True)
class Latency(PolicyFlags):
    """Time the actions of a trained policy: alone, among its candidates, and of its one-step student.

    Prints the median time for one state in microseconds, in batches of 1 and of 256 states: on one CPU core through PyTorch
    and onnxruntime, and on a GPU if there is one. `speed-up` is relative to the row with most candidates and the same batch.
    """

    candidates: Maybe[int] = None
    """The most actions sampled for each observation. Default: as in the evaluations during training."""
    no_onnx: bool = False
    """Time PyTorch alone; onnxruntime needs pip install 'diffcps[export]'."""
    json: bool = False
    """Print JSON instead of a table."""

    def __call__(self) -> None:
        """Run it."""
        from diffcps.deploy import latency, onnx

        if not self.no_onnx:
            onnx.require()
        policy = self.found()[0]
        console = Console(stderr=self.json)
        with console.status("exporting and timing (half a minute)"):
            found = latency.timings(policy, self.candidates, without_onnx=self.no_onnx)
        if self.json:
            rows = [timing.way._asdict() | {"microseconds": timing.microseconds} for timing in found]
            print(json.dumps(rows, indent=2))
            return
        card = policy.card
        say(console, f"{card.run.task}, {card.run.algorithm}, seed {card.seed}, step {card.step:,}")
        say(console, "microseconds for one state; a batch is so many states at a time")
        console.print(terminal_table(columns(found)))


def columns(found: "list[Timing]") -> list[Column]:
    """A row for each way and batch, a column for each runtime and device, and how many times as fast it is."""
    kinds = list(dict.fromkeys((way.runtime, way.device) for way, _ in found))
    rows = list(dict.fromkeys((way.actor, way.candidates, way.batch) for way, _ in found))
    rows.sort(key=lambda row: row[2])
    at: dict[tuple[object, ...], float] = dict(found)
    slowest = max(rows, key=lambda row: row[1])
    cells = [
        Column("policy", [actor for actor, _, _ in rows], right=False),
        Column("candidates", [str(count) for _, count, _ in rows]),
        Column("batch", [str(batch) for _, _, batch in rows]),
    ]
    for kind in kinds:
        times = [at[*row, *kind] for row in rows]
        usual = [at[slowest[0], slowest[1], batch, *kind] for _, _, batch in rows]
        cells.append(Column(f"{kind[0]}, {kind[1]}", [f"{value:,.1f}" for value in times]))
        cells.append(Column("speed-up", [f"{other / value:,.1f}" for other, value in zip(usual, times, strict=True)]))
    return cells
