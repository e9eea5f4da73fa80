"""`diffcps evaluate` and `diffcps export`, and how they find a policy: a run folder, its key, an export, an MLflow model."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from diffcps.config import Actor, Physics
from diffcps.errors import UserError
from diffcps.files import finite
from diffcps.runs.flags import Maybe
from diffcps.runs.folder import RunFolder
from diffcps.text import say

if TYPE_CHECKING:
    from diffcps.deploy import SavedPolicy
    from diffcps.deploy.evaluate import EpisodeResults


@dataclass(frozen=True)
class PolicyFlags:
    """Which policy."""

    policy: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="POLICY")]
    """A run folder (results/NAME/runs/KEY) or its KEY, an exported folder, or an MLflow model (models:/TASK@best)."""
    best: bool = False
    """The policy of the best evaluation instead of the newest; for trials that keep it (--keep-best)."""
    step: Maybe[int] = None
    """The policy of the evaluation at this step; for trials that keep it (--keep-checkpoints)."""
    results: Path = Path("results")
    """Folder of the sweeps, and of MLflow's database unless --tracking-uri or $MLFLOW_TRACKING_URI names another."""
    tracking_uri: Annotated[Maybe[str], tyro.conf.arg(metavar="URI")] = None
    """MLflow's store, to read an MLflow model. Default: $MLFLOW_TRACKING_URI, else mlflow.db in the results folder."""
    member: Maybe[int] = None
    """Number of the policy in its pack, from 0. Default: the first."""

    def found(self) -> "list[SavedPolicy]":
        """The policies that are named: all members of a run folder, if no member is given, or one policy.

        Raises `UserError` when there is no such policy, or its files are missing or damaged.
        """
        from diffcps.deploy import load_policy  # imports torch
        from diffcps.deploy.trained import members

        target = self.policy
        if target.partition(":/")[0] in ("models", "runs", "mlflow-artifacts"):
            from diffcps.tracking import download

            with tempfile.TemporaryDirectory(prefix="diffcps-") as scratch:
                folder = download(target, self.tracking_uri, self.results, Path(scratch))
                return [load_policy(folder, self.member, best=self.best, step=self.step)]
        if "://" in target:
            raise UserError(
                f"{target}: policies cannot be read from an object store. Copy the run folder to this machine and name the copy."
            )
        folder = Path(target).expanduser()
        if not folder.exists() and "/" not in target:
            found = sorted(self.results.expanduser().glob(f"*/runs/{target}"))
            if len(found) > 1:
                raise UserError(
                    f"{target} is in several sweeps: {', '.join(str(path.parent.parent) for path in found)}. Give its full path."
                )
            folder = found[0] if found else folder
        if self.member is None and (folder / "config.json").exists():
            return members(RunFolder(folder), best=self.best, step=self.step)
        return [load_policy(folder, self.member, best=self.best, step=self.step)]


@dataclass(frozen=True)
class _Flags(PolicyFlags):
    """Which policy, and how it acts."""

    candidates: Maybe[int] = None
    """Actions sampled for each observation, of which the algorithm makes one. Default: as in the evaluations during training."""
    actor: Maybe[Actor] = None
    """The online policy, its moving average, or its one-step student. Default: as in the evaluations during training."""


@contextmanager
def bar(console: Console, title: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """A progress bar. It is moved by what this gives, which takes the arguments of rich's `Progress.update`."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as shown:
        yield partial(shown.update, shown.add_task(title, total=total))


# `diffcps export`: a trained policy as files for use outside this project -------------------------------------------


@dataclass(frozen=True)
class Export(_Flags):
    """Write a trained policy into a folder.

    The networks are those of the newest checkpoint. diffcps.load_policy reads policy.safetensors and policy.json.
    policy.onnx is a function from observations and noise to actions, for programs that have neither this project nor torch.
    `--candidates` and `--actor` apply to policy.onnx only.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")] = tyro.MISSING
    """Folder for the files. It is created if it does not exist."""
    no_onnx: bool = False
    """Do not write policy.onnx. It is written by default, which needs pip install 'diffcps[export]'."""

    def __call__(self) -> None:
        """Run it."""
        from diffcps.deploy import onnx

        console = Console()
        if not self.no_onnx:
            onnx.require()
        policy = self.found()[0]
        policy.save(self.folder)
        step, steps = policy.card.step, policy.card.run.steps
        newest = self.step is None and not self.best
        unfinished = f" of {steps:,}: the trial is not complete" if newest and step < steps else ""
        say(console, f"{policy.card.run.task}, seed {policy.card.seed}, step {step:,}{unfinished}")
        files = ["policy.safetensors", "policy.json"]
        if not self.no_onnx:
            with console.status("writing policy.onnx (takes some seconds)"):
                onnx.export(policy, self.folder / onnx.FILE, self.candidates, self.actor)
            files.append(onnx.FILE)
        for name in files:
            size = (self.folder / name).stat().st_size
            say(console, f"{self.folder / name}: {size / 1e3:,.0f} kB")
        if not self.no_onnx:
            say(console, _speed(policy, self.folder / onnx.FILE, self.candidates, self.actor))


def _speed(policy: "SavedPolicy", file: Path, candidates: int | None, actor: Actor | None) -> str:
    """How long an action of an exported policy takes; a sentence, also where onnxruntime is missing."""
    from diffcps.deploy import latency

    try:
        alone, many = latency.of_export(policy, file, candidates, actor)
    except UserError:
        return "its speed was not measured, for onnxruntime is not installed (pip install 'diffcps[export]')"
    return (
        f"one state at a time {alone.microseconds:,.0f} µs, in batches of {many.way.batch} {many.microseconds:,.1f} µs each "
        "(onnxruntime, one core); diffcps latency compares candidates and student"
    )


# `diffcps evaluate`: scores of a trained policy over many episodes, and a film of one -------------------------------


@dataclass(frozen=True)
class Evaluate(_Flags):
    """Run a trained policy for some episodes and print its scores.

    Prints mean, standard deviation over episodes, and the 95 % interval of the mean. The policy acts as in the
    evaluations during training; the episodes are new ones.
    """

    episodes: int = 100
    """Number of episodes for each policy."""
    video: Maybe[Path] = None
    """Film an episode with a typical return into this MP4 file (needs pip install 'diffcps[video]')."""
    member: Maybe[int] = None
    """Number of the policy in its pack, from 0. Default: all policies; the film shows the first."""
    physics: Maybe[Physics] = None
    """Body masses in the simulator: those of D4RL's recordings or those of today's models. Default: as in training."""
    seed: int = 0
    """Random seed. The same seed gives the same episodes."""
    json: bool = False
    """Print JSON instead of a table. Numbers that are not finite or not defined are null."""

    def __call__(self) -> None:
        """Run it."""
        if self.video is not None and self.video.suffix.lower() != ".mp4":
            raise UserError(f"--video {self.video}: the name of the file must end in .mp4.")
        console = Console(stderr=self.json)
        policies = self.found()
        if self.video is not None:
            from diffcps.deploy import film
            from diffcps.deploy.evaluate import check_film
            from diffcps.tasks.registry import task_of

            check_film(task_of(policies[0].card.run))
            film.require()
        results = [self._evaluate(policy, console, first=number == 0) for number, policy in enumerate(policies)]
        if self.json:
            values = [to_json(policy, result) for policy, result in zip(policies, results, strict=True)]
            print(json.dumps(values, indent=2, allow_nan=False))
        else:
            self._print(policies, results, console)
        if self.video is not None:
            self._film(results[0], console)

    def _evaluate(self, policy: "SavedPolicy", console: Console, first: bool) -> "EpisodeResults":
        import torch

        from diffcps.deploy.evaluate import PARALLEL_EPISODES, evaluate
        from diffcps.tasks.registry import task_of

        steps = task_of(policy.card.run).episode_limit * -(-self.episodes // PARALLEL_EPISODES)  # many end earlier
        with bar(console, f"seed {policy.card.seed}", steps) as update:
            return evaluate(
                policy, self.episodes, candidates=self.candidates, actor=self.actor, physics=self.physics, seed=self.seed,
                threads=torch.get_num_threads(), progress=partial(update, advance=1), record=first and self.video is not None,
            )  # fmt: skip

    def _print(self, policies: "list[SavedPolicy]", results: "list[EpisodeResults]", console: Console) -> None:
        from diffcps import stats
        from diffcps.text import Column, interval, number, terminal_table

        card = policies[0].card
        candidates, actor = policies[0].options(self.candidates, self.actor)
        console.print(f"[bold]{card.run.task}[/], step {card.step:,} of {card.run.steps:,}", highlight=False)
        note = card.dataset.get("provenance_note", f"{card.run.data.source} data")
        say(console, f"training data: {note}")
        how = f"{self.physics or card.run.physics} physics, {candidates} candidates, {actor} policy"
        say(console, f"{self.episodes} episodes each, {how}")
        found = [result.summary() for result in results]
        cells = {
            "seed": [str(policy.card.seed) for policy in policies],
            "score": [f"{number(f['score']['mean'])} ± {number(f['score']['std'])}" for f in found],
            "95 % interval": [interval(f["score"]["low"], f["score"]["high"]) for f in found],
            "return": [f"{number(f['return']['mean'])} ± {number(f['return']['std'])}" for f in found],
            "interval of the return": [interval(f["return"]["low"], f["return"]["high"]) for f in found],
            "length": [number(f["length"]["mean"]) for f in found],
        }
        console.print(terminal_table([Column(title, values) for title, values in cells.items()], "± over episodes"))
        if len(found) > 1:
            mean, std = stats.mean_std([f["score"]["mean"] for f in found])
            say(console, f"over {len(found)} seeds: {number(mean)} ± {number(std)}")

    def _film(self, results: "EpisodeResults", console: Console) -> None:
        from diffcps.deploy import film

        assert self.video is not None
        episode = results.typical
        with bar(console, "filming") as update:
            file = film.write(results, episode, self.video, lambda done, of: update(completed=done, total=of))
        say(
            console,
            f"film: {file}, an episode with score {results.scores[episode]:.1f} and {results.lengths[episode]} steps",
        )


def to_json(policy: "SavedPolicy", results: "EpisodeResults") -> dict[str, object]:
    """The results of one policy, ready for JSON."""
    card = policy.card
    known: dict[str, object] = {"task": card.run.task, "key": card.key, "member": card.member, "step": card.step}
    known |= {"seed": card.seed, "episodes": len(results.returns)}
    for name, values in results.summary().items():
        known[name] = {statistic: finite(value) for statistic, value in values.items()}
    return known | {"returns": [finite(value) for value in results.returns.tolist()]}
