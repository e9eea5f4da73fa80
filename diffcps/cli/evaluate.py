"""``diffcps evaluate``: scores of a trained policy over many episodes, and one of them as a film."""

import json
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from diffcps.config import Actor, Physics
from diffcps.errors import UserError

if TYPE_CHECKING:
    from diffcps.deploy import SavedPolicy
    from diffcps.deploy.judge import Judged


@dataclass(frozen=True)
class Evaluate:
    """Play episodes with a trained policy and print its score: mean, standard deviation over episodes, and the 95 %
    interval of the mean. The episodes are played as training's evaluation plays them, and are none of those it played.
    """

    policy: tyro.conf.Positional[str]
    """A run folder (results/NAME/runs/KEY) or its KEY, an exported folder, or an MLflow model (models:/TASK@best)."""
    episodes: int = 100
    """Episodes for each policy."""
    video: Path | None = None
    """Film an episode, one of typical return, into this MP4 file (extra: video). Mazes are shown from above, with the goal
    in red."""
    member: int | None = None
    """Which policy of a run folder's pack, counted from 0; by default all of them, and the film shows the first."""
    candidates: int | None = None
    """Actions drawn for each observation, of which one is chosen by value; by default as in training's evaluation."""
    actor: Actor | None = None
    """The online policy, or its moving average; by default as in training's evaluation."""
    physics: Physics | None = None
    """Body masses of the simulator: those that D4RL was recorded with, or today's; by default training's."""
    seed: int = 0
    """Which episodes; the same seed gives the same ones."""
    json: bool = False
    """Print the numbers as JSON instead, for scripts; what is no number, as an interval of one episode, is null."""
    results: Path = Path("results")
    """Folder that holds the sweeps, and MLflow's store unless another is given."""
    tracking_uri: str | None = None
    """MLflow's store, for a model of MLflow's; by default $MLFLOW_TRACKING_URI or mlflow.db in the results folder."""

    def __call__(self) -> None:
        """Run it."""
        if self.video is not None and self.video.suffix.lower() != ".mp4":
            raise UserError(f"--video {self.video}: films are MP4 files; let the name end in .mp4.")
        from diffcps.cli.policies import find

        console = Console(stderr=self.json)
        with tempfile.TemporaryDirectory(prefix="diffcps-") as scratch:
            policies = find(self.policy, self.member, self.results, self.tracking_uri, Path(scratch))
        if self.video is not None:
            from diffcps.deploy import film
            from diffcps.deploy.judge import check_film
            from diffcps.tasks.registry import task_of

            check_film(task_of(policies[0].card.run))
            film.require()
        judged = [self._judge(policy, console, first=number == 0) for number, policy in enumerate(policies)]
        if self.json:
            values = [_plain(policy, result) for policy, result in zip(policies, judged, strict=True)]
            print(json.dumps(values, indent=2, allow_nan=False))
        else:
            self._print(policies, judged, console)
        if self.video is not None:
            self._film(judged[0], console)

    def _judge(self, policy: "SavedPolicy", console: Console, first: bool) -> "Judged":
        import torch

        from diffcps.deploy.judge import AT_ONCE, judge
        from diffcps.tasks.registry import task_of

        steps = task_of(policy.card.run).episode_limit * -(-self.episodes // AT_ONCE)
        with _bar(console, f"seed {policy.card.config.seed}", steps) as tick:
            return judge(
                policy, self.episodes, self.candidates, self.actor, self.physics, self.seed, torch.get_num_threads(),
                tick, record=first and self.video is not None,
            )  # fmt: skip

    def _print(self, policies: "list[SavedPolicy]", judged: "list[Judged]", console: Console) -> None:
        from diffcps import stats
        from diffcps.text import Column, interval, number, table

        card = policies[0].card
        candidates, actor = policies[0].options(self.candidates, self.actor)
        console.print(f"[bold]{card.run.task}[/], step {card.step:,} of {card.run.steps:,}", highlight=False)
        note = card.dataset.get("provenance_note", f"{card.run.data.source} data")
        console.print(f"learned from: {note}", highlight=False, soft_wrap=True, markup=False)
        console.print(
            f"{self.episodes} episodes each, {self.physics or card.run.physics} physics, {candidates} candidates, {actor} policy",
            highlight=False,
        )  # fmt: skip
        found = [result.summary() for result in judged]
        cells = {
            "seed": [str(policy.card.config.seed) for policy in policies],
            "score": [f"{number(f['score']['mean'])} ± {number(f['score']['std'])}" for f in found],
            "95 % interval": [interval(f["score"]["low"], f["score"]["high"]) for f in found],
            "return": [f"{number(f['return']['mean'])} ± {number(f['return']['std'])}" for f in found],
            "interval of the return": [interval(f["return"]["low"], f["return"]["high"]) for f in found],
            "length": [number(f["length"]["mean"]) for f in found],
        }
        console.print(table([Column(title, values) for title, values in cells.items()], "± over episodes"))
        if len(found) > 1:
            mean, std = stats.mean_std([f["score"]["mean"] for f in found])
            console.print(f"over {len(found)} seeds: {number(mean)} ± {number(std)}", highlight=False)

    def _film(self, judged: "Judged", console: Console) -> None:
        from diffcps.deploy import film

        assert self.video is not None
        episode = judged.typical
        with Progress(
            TextColumn("filming"), BarColumn(), TimeRemainingColumn(), console=console, transient=True
        ) as bar:
            task = bar.add_task("", total=None)
            file = film.write(
                judged, episode, self.video, lambda done, of: bar.update(task, completed=done, total=of)
            )  # fmt: skip
        console.print(
            f"film: {file}, an episode of score {judged.scores[episode]:.1f} and {judged.lengths[episode]} steps",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


@contextmanager
def _bar(console: Console, title: str, steps: int) -> Iterator[Callable[[], None]]:
    """A bar that fills as episodes come to their limit; many end before it."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=steps)
        yield lambda: bar.advance(task)


def _plain(policy: "SavedPolicy", judged: "Judged") -> dict[str, object]:
    card = policy.card
    known: dict[str, object] = {"task": card.run.task, "key": card.key, "member": card.member, "step": card.step}
    known |= {"seed": card.config.seed, "episodes": len(judged.returns)}
    for name, values in judged.summary().items():
        known[name] = {statistic: _finite(value) for statistic, value in values.items()}
    return known | {"returns": [_finite(value) for value in judged.returns.tolist()]}


def _finite(value: float) -> float | None:
    """The value, or ``None``: JSON has no word for what is not a number."""
    return value if math.isfinite(value) else None
