"""What a trial writes while it learns: rows, reports, and what sinks are shown."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from looped import CONFIG, METRICS, clock, evaluate, looped, make_learner, straight, table

from diffcps.runs.folder import RunFolder
from diffcps.training.evaluation import Rollouts
from diffcps.training.policy import Policy


def test_rows_stand_at_the_documented_steps(tmp_path: Path) -> None:
    """Multiples of ``log_every`` and of ``evaluation.every``, and the end; each a mean since the row before."""
    _, folder = straight(CONFIG, tmp_path)
    rows = table((folder.path / "metrics.csv").read_text())
    steps = [4, 6, 8, 12, 16, 18, 20]
    assert list(rows[0]) == ["step", "member", "seed", *METRICS, "steps_per_second"]
    expected = [(s, k, m.seed) for s in steps for k, m in enumerate(CONFIG.members)]
    assert [(int(r["step"]), int(r["member"]), int(r["seed"])) for r in rows] == expected
    assert all(float(row["steps_per_second"]) > 0 for row in rows)

    learner, values = make_learner(), []
    for _ in range(20):
        values.append({name: value.numpy() for name, value in learner.update(1).items()})
    for row in rows:
        step, k = int(row["step"]), int(row["member"])
        before = max([0, *(s for s in steps if s < step)])
        for name in METRICS:
            mean = np.mean([value[name][k] for value in values[before:step] if name in value])
            assert float(row[name]) == pytest.approx(mean, rel=1e-5), (step, name)


def test_returns_stand_at_evaluations_and_the_end(tmp_path: Path) -> None:
    _, folder = straight(CONFIG, tmp_path)
    rows = table((folder.path / "returns.csv").read_text())
    assert list(dict.fromkeys(int(row["step"]) for row in rows)) == [6, 12, 18, 20]
    # evaluation 2 of the snapshot at step 18
    learner = make_learner()
    learner.update(18)
    rollouts = evaluate(learner.policy(), 2)
    stored = [row for row in rows if row["step"] == "18"]
    assert [float(row["return"]) for row in stored] == rollouts.returns.ravel().tolist()
    assert [int(row["length"]) for row in stored] == rollouts.lengths.ravel().tolist()
    assert [row["episode"] for row in stored] == ["0", "1", "2"] * 2


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [(2, [6, 12, 18, 20]), (0.5, [4, 6, 8, 12, 16, 18, 20]), (1000, [20]), (3.5, [12, 20]), (7, [20])],
)
def test_checkpoints_come_with_a_row(tmp_path: Path, minutes: float, expected: list[int]) -> None:
    """With the first row after so many minutes since the last one, a minute a row here, and at the end."""
    saved: list[int] = []
    told: list[int] = []

    class Folder(RunFolder):
        def save_checkpoint(self, state: Mapping[str, Any], step: int) -> None:
            saved.append(step)

    folder = Folder(tmp_path)
    folder.create(CONFIG)
    looped(
        CONFIG.replaced(checkpoint_minutes=minutes),
        evaluate,
        folder,
        progress=lambda status: told.append(status["saved"]),
        checkpoint_clock=clock(),
    )
    assert saved == expected
    assert list(dict.fromkeys(told)) == [0, *expected], "the status says from where it would go on"
    assert folder.status["saved"] == 20


def test_report_follows_every_evaluation(tmp_path: Path) -> None:
    """Score is the mean over members; best the mean of each member's own best, not the best mean."""
    given_returns = iter([[[1.0], [0.0]], [[0.0], [0.6]], [[0.5], [0.1]], [[0.2], [0.2]]])
    reports: list[dict[str, float]] = []
    on_disk: list[int] = []

    def judge(policy: Policy, index: int, episodes: int) -> Rollouts:
        return Rollouts(np.array(next(given_returns)), np.ones((2, 1), dtype=np.int64))

    def report(summary: dict[str, float]) -> None:
        reports.append(dict(summary))
        on_disk.append(len((tmp_path / CONFIG.key / "returns.csv").read_text().splitlines()))

    done, _ = straight(CONFIG, tmp_path, evaluate=judge, report=report)
    assert [report["step"] for report in reports] == [6, 12, 18, 20]
    assert [report["score"] for report in reports] == pytest.approx([50, 30, 30, 20])
    assert [report["best"] for report in reports] == pytest.approx([50, 80, 80, 80])
    assert on_disk == [3, 5, 7, 9], "what is reported is on disk already"
    assert done.result == {"step": 20, "last": pytest.approx(20), "best": pytest.approx(80)}


def test_sinks_are_shown_what_the_folder_holds(tmp_path: Path) -> None:
    done, folder = straight(CONFIG, tmp_path)
    rows = table((folder.path / "metrics.csv").read_text())
    assert list(done.sink) == [4, 6, 8, 12, 16, 18, 20]
    for step, shown in done.sink.items():
        for name in METRICS:
            stored = [float(row[name]) for row in rows if int(row["step"]) == step]
            assert np.float32(shown[f"training/{name}"]).tolist() == np.float32(stored).tolist()
        evaluated = {name for name in shown if name.startswith("evaluation/")}
        expected = {f"evaluation/{name}" for name in ("score", "best", "return", "length")}
        assert evaluated == (expected if step in (6, 12, 18, 20) else set())
    shown = [done.sink[step]["evaluation/score"] for step in (6, 12, 18, 20)]
    best = [done.sink[step]["evaluation/best"] for step in (6, 12, 18, 20)]
    assert best == np.maximum.accumulate(shown).tolist(), "also after a resume: a sink need not remember"
    returns = done.sink[6]["evaluation/return"]
    assert done.sink[6]["evaluation/score"] == pytest.approx([100 * value for value in returns])
