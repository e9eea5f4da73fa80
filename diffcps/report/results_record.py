"""A page of results from several sweeps, and the record that it is made from.

The record is two CSV files beside the page: a line for each policy, and a line for each of its evaluations. It does not need
the run folders: a page that is made again from other sweeps keeps what it had. A trial that is read again replaces its record.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffcps.algorithms import ways
from diffcps.errors import UserError
from diffcps.files import save
from diffcps.report.analysis import Row, seed_scores
from diffcps.report.drawing import drawn
from diffcps.report.results_page import document
from diffcps.report.writers import markdown
from diffcps.runs.commands import full_length_command
from diffcps.runs.joined import joined
from diffcps.runs.presets import changed
from diffcps.runs.read import Sweep
from diffcps.runs.trial import Trial
from diffcps.text import worded

SCORES, CURVES, PAGE = "scores.csv", "curves.csv", "index.md"
_WORDS = "key", "task", "domain", "method", "settings", "data", "checksum", "physics", "command", "commit"
"""Columns of text, which may be empty."""
_NUMBERS = (
    "seed", "last", "one", "student", "newest", "best", "moved", "steps", "width", "seconds", "behaviour", "rows", "episodes",
)  # fmt: skip
_COLUMNS = *_WORDS, *_NUMBERS
_EVALUATED = "key", "seed", "step", "score"


@dataclass(frozen=True, eq=False)
class ResultsRecord:
    """What is known of policies on data sets."""

    scores: pd.DataFrame
    """A row a policy, see ``_COLUMNS``."""
    curves: pd.DataFrame
    """Key, seed, step and score of every evaluation."""

    @classmethod
    def of(cls, trials: Sequence[Trial]) -> "ResultsRecord":
        """The record of ``whole`` trials. If a trial occurs twice, the later one counts."""
        once = {trial.key: trial for trial in trials}.values()
        scores = [record for trial in once for record in _policies(trial)]
        curves = [record for trial in once for record in _evaluations(trial)]
        return cls(pd.DataFrame(scores, columns=[*_COLUMNS]), pd.DataFrame(curves, columns=[*_EVALUATED]))

    @classmethod
    def read(cls, folder: Path) -> "ResultsRecord":
        """The record in a page's folder; empty where there is none. Raises ``UserError`` naming a file that is none."""
        return cls(_read(folder / SCORES, _COLUMNS), _read(folder / CURVES, _EVALUATED))

    def with_newer(self, other: "ResultsRecord") -> "ResultsRecord":
        """Both records together. For a trial in both, the other one counts."""
        if self.scores.empty or other.scores.empty:
            return self if other.scores.empty else other
        fresh = set(other.scores["key"])
        parts = [
            pd.concat([old[~old["key"].isin(fresh)], new], ignore_index=True)
            for old, new in ((self.scores, other.scores), (self.curves, other.curves))
        ]
        return ResultsRecord(*parts)

    def write(self, folder: Path) -> list[Path]:
        """Write record, page and figures; returns their paths. Raises ``UserError`` when that fails."""
        page = document(self.scores, self.curves)
        pictures = {f"figures/{name}.png": picture.png for name, picture in drawn(page.figures).items()}
        record = {SCORES: _csv(self.scores), CURVES: _csv(self.curves)}
        return save(folder, record | pictures | {PAGE: markdown(page, pictures=True).encode()})


def whole(sweep: Sweep) -> list[Trial]:
    """The complete trials of a sweep that have evaluations and known data; see ``joined``."""
    known = [trial for trial in joined(sweep.trials) if trial.state == "complete" and len(trial.scores)]
    return [trial for trial in known if trial.dataset.get("rows") and trial.dataset.get("checksum")]


def _policies(trial: Trial) -> list[dict[str, Any]]:
    """A record for each seed of a complete trial."""
    row, config = Row(trial), trial.config
    scores = {kind: seed_scores(trial, kind) for kind in ("last", "newest", "best")}
    alone = trial.values("evaluation.candidates") == (1,)
    scores |= {"one": scores["last"] if alone else _by(row, ways.ONE), "student": _by(row, str(ways.STUDENT))}
    scores |= {"moved": _moved(trial)}
    common = {
        "key": trial.key,
        "task": trial.task.name,
        "domain": trial.task.domain,
        "method": config.method,
        "steps": config.steps,
        "width": config.value("hidden_size"),
        "seconds": round(sum(float(value) for value in trial.status.get("seconds", {}).values())),
        "behaviour": trial.behaviour_score,
        "data": str(trial.dataset.get("label", "")),
        "rows": int(trial.dataset["rows"]),
        "checksum": str(trial.dataset["checksum"]),
        "physics": config.physics,
        "episodes": config.evaluation.episodes_at(True),
        "command": command(trial),
        "commit": str(trial.environment.get("git_commit") or "")[:12],
    }
    names = [*changed(config), *(name for member in config.members for name in member.settings)]
    said = [
        ", ".join(f"{name}={worded(config.value(name, k))}" for name in dict.fromkeys(names))
        for k in range(trial.seeds)
    ]
    return [
        common | {"seed": member.seed, "settings": said[k]} | {name: float(value[k]) for name, value in scores.items()}
        for k, member in enumerate(config.members)
    ]


def command(trial: Trial) -> str:
    """The command that trains a trial again; where the members of a pack differ in settings, that of the first member."""
    config = trial.config
    every, episodes = config.evaluation.every, config.evaluation.episodes
    words = [full_length_command(config), f"--steps {config.steps} --seeds {trial.seeds}"]
    words += [f"--evaluate-every {every} --episodes {episodes}"]
    words += [f"--acting {' '.join(config.acting)}"] if config.acting else []
    words += [f"--measures {' '.join(config.measures)}"] if config.measures else []
    return " ".join(words)


def _evaluations(trial: Trial) -> list[dict[str, Any]]:
    steps = trial.evaluations.steps
    return [
        {"key": trial.key, "seed": member.seed, "step": int(step), "score": round(float(score), 3)}
        for k, member in enumerate(trial.config.members)
        for step, score in zip(steps, trial.scores[:, k], strict=True)
    ]


def _by(row: Row, way: str) -> NDArray[np.float64]:
    """Last scores by another way to act ``[K]``; nan where it was not measured."""
    found = next((known for known in row.ways if str(known) == way), None)
    return np.full(row.trial.seeds, np.nan) if found is None else row.trial.measure(found.column)[1][-1]


def _moved(trial: Trial) -> NDArray[np.float64]:
    """How far the curve of each seed still moves ``[K]``: its last quarter's mean less that of the quarter before."""
    quarter = len(trial.scores) // 4
    if not quarter:
        return np.full(trial.seeds, np.nan)
    late, before = trial.scores[-quarter:], trial.scores[-2 * quarter : -quarter]
    return np.asarray(late.mean(axis=0) - before.mean(axis=0))


def _read(file: Path, columns: Sequence[str]) -> pd.DataFrame:
    if not file.exists():
        return pd.DataFrame(columns=[*columns])
    empty = {name: [""] for name in columns if name not in _WORDS}
    try:
        found = pd.read_csv(file, dtype=dict.fromkeys(_WORDS, str), keep_default_na=False, na_values=empty)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is no record of results ({error}). Move it away, or name another folder.") from error
    if missing := [name for name in columns if name not in found]:
        raise UserError(f"{file} has no column {missing[0]!r}: it is no record of results. Move it away.")
    return found[[*columns]]


def _csv(frame: pd.DataFrame) -> bytes:
    out = io.StringIO()
    frame.to_csv(out, index=False, float_format="%.6g", lineterminator="\n")
    return out.getvalue().encode()
