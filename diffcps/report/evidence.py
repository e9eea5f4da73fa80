"""A page of results from several sweeps, and the record that it is made from.

The record is two CSV files beside the page, a line a policy and a line an evaluation of it. It stays when the run folders are
gone: a page made again from other sweeps keeps what it had, and a trial that is given again replaces what was recorded of it.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffcps.algorithms import ways
from diffcps.errors import UserError
from diffcps.files import save
from diffcps.report.analysis import Row, seed_scores
from diffcps.report.drawing import drawn
from diffcps.report.outcomes import document
from diffcps.report.writers import markdown
from diffcps.runs import full_length
from diffcps.runs.presets import changed
from diffcps.runs.read import Sweep
from diffcps.runs.trials import Trial
from diffcps.text import worded

SCORES, CURVES, PAGE = "scores.csv", "curves.csv", "index.md"
_WORDS = "key", "task", "method", "settings", "data", "checksum", "physics", "command", "commit"
"""Columns of text, which may be empty."""
_STUDENT = "actor=student"
_COLUMNS = (
    "key", "seed", "task", "method", "settings", "last", "one", "student", "newest", "best", "moved", "steps", "width", "seconds",
    "behaviour", "data", "rows", "checksum", "physics", "episodes", "command", "commit",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of policies on data sets."""

    scores: pd.DataFrame
    """A row a policy, see ``_COLUMNS``."""
    curves: pd.DataFrame
    """Key, seed, step and score of every evaluation."""

    @classmethod
    def of(cls, sweeps: Sequence[Sweep]) -> "Evidence":
        """The complete trials of some sweeps that were evaluated."""
        known = [trial for sweep in sweeps for trial in sweep.known if trial.state == "complete" and len(trial.scores)]
        scores = [record for trial in known for record in _policies(trial)]
        curves = [record for trial in known for record in _evaluations(trial)]
        return cls(pd.DataFrame(scores, columns=[*_COLUMNS]), pd.DataFrame(curves, columns=[*_EVALUATED]))

    @classmethod
    def read(cls, folder: Path) -> "Evidence":
        """The record in a page's folder; empty where there is none. Raises ``UserError`` naming a file that is none."""
        return cls(_read(folder / SCORES, _COLUMNS), _read(folder / CURVES, _EVALUATED))

    def with_newer(self, other: "Evidence") -> "Evidence":
        """Both; of a trial in both, what the other says."""
        if self.scores.empty or other.scores.empty:
            return self if other.scores.empty else other
        fresh = set(other.scores["key"])
        parts = [
            pd.concat([old[~old["key"].isin(fresh)], new], ignore_index=True)
            for old, new in ((self.scores, other.scores), (self.curves, other.curves))
        ]
        return Evidence(*parts)

    def write(self, folder: Path) -> list[Path]:
        """Write record, page and figures; returns their paths. Raises ``UserError`` when that fails."""
        page = document(self.scores, self.curves)
        text = markdown(page)
        for figure in page.figures:
            text = text.replace(f"Figure: figures/{figure.name}.png", f"![{figure.title}](figures/{figure.name}.png)")
        files = {PAGE: text.encode(), SCORES: _csv(self.scores), CURVES: _csv(self.curves)}
        pictures = {f"figures/{name}.png": picture.png for name, picture in drawn(page.figures).items()}
        return save(folder, files | pictures)


_EVALUATED = "key", "seed", "step", "score"


def _policies(trial: Trial) -> list[dict[str, Any]]:
    """A record for each seed of a complete trial."""
    row, config = Row(trial), trial.config
    scores = {kind: seed_scores(trial, kind) for kind in ("last", "newest", "best")}
    scores |= {"one": _by(row, ways.ONE, scores["last"]), "student": _by(row, _STUDENT, None), "moved": _moved(trial)}
    seconds = sum(float(value) for value in trial.status.get("seconds", {}).values())
    common = {
        "key": trial.key,
        "task": trial.task.name,
        "method": " ".join([config.algorithm, *config.variant]),
        "settings": ", ".join(f"{name}={worded(values[0])}" for name, values in changed(config).items()),
        "steps": config.steps,
        "width": config.value("hidden_size"),
        "seconds": round(seconds),
        "behaviour": trial.behaviour_score,
        "data": trial.dataset.get("label"),
        "rows": trial.dataset.get("rows"),
        "checksum": str(trial.dataset.get("checksum", "")),
        "physics": config.physics,
        "episodes": config.evaluation.episodes_at(True),
        "command": f"{full_length.command(config)} {_size(trial)}",
        "commit": str(trial.environment.get("git_commit") or "")[:12],
    }
    return [
        common | {"seed": member.seed} | {name: float(value[k]) for name, value in scores.items()}
        for k, member in enumerate(config.members)
    ]


def _size(trial: Trial) -> str:
    """The flags that say how long a trial is and how it is evaluated."""
    config = trial.config
    every, episodes = config.evaluation.every, config.evaluation.episodes
    return f"--steps {config.steps} --seeds {trial.seeds} --evaluate-every {every} --episodes {episodes}"


def _evaluations(trial: Trial) -> list[dict[str, Any]]:
    steps = trial.evaluations.steps
    return [
        {"key": trial.key, "seed": member.seed, "step": int(step), "score": round(float(score), 3)}
        for k, member in enumerate(trial.config.members)
        for step, score in zip(steps, trial.scores[:, k], strict=True)
    ]


def _by(row: Row, way: str, own: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any]:
    """Last scores by another way to act ``[K]``; those by the own way where it is that; else NaN."""
    if way == ways.ONE and row.trial.values("evaluation.candidates") == (1,) and own is not None:
        return own
    found = next((known for known in row.ways if str(known) == way), None)
    if found is None:
        return np.full(row.trial.seeds, np.nan)
    values: np.ndarray[Any, Any] = row.trial.measure(found.column)[1][-1]
    return values


def _moved(trial: Trial) -> np.ndarray[Any, Any]:
    """How far the curve of each seed still moves: mean of the last quarter of evaluations less that of the quarter before."""
    quarter = len(trial.scores) // 4
    if not quarter:
        return np.full(trial.seeds, np.nan)
    late, before = trial.scores[-quarter:], trial.scores[-2 * quarter : -quarter]
    moved: np.ndarray[Any, Any] = late.mean(axis=0) - before.mean(axis=0)
    return moved


def _read(file: Path, columns: Sequence[str]) -> pd.DataFrame:
    if not file.exists():
        return pd.DataFrame(columns=[*columns])
    try:
        found = pd.read_csv(
            file,
            dtype=dict.fromkeys(_WORDS, str),
            keep_default_na=False,
            na_values={name: [""] for name in columns if name not in _WORDS},
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is no record of results ({error}). Move it away, or name another folder.") from error
    if missing := [name for name in columns if name not in found]:
        raise UserError(f"{file} has no column {missing[0]!r}: it is no record of results. Move it away.")
    return found[[*columns]]


def _csv(frame: pd.DataFrame) -> bytes:
    out = io.StringIO()
    frame.to_csv(out, index=False, float_format="%.6g", lineterminator="\n")
    return out.getvalue().encode()
