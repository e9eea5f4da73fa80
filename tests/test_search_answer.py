"""What a search answers: the best configuration, its command at full length, importances, and the score along each axis."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import run_folders as synthetic
import tyro
from trials import trial

from diffcps import report
from diffcps.files import write_json
from diffcps.report.contents import Report
from diffcps.runs.commands import full_length_command
from diffcps.runs.flags import SweepOptions
from diffcps.runs.plan import Axis, Plan
from diffcps.runs.planning import build
from diffcps.runs.read import IMPORTANCES
from diffcps.runs.trial import Trial
from diffcps.sweep.dashboard import importances
from diffcps.tasks.registry import get_task

CLIP = Axis("lambda_clip", low=0.0, high=1.0)
BOUND = Axis("target_kl", low=0.01, high=0.3, log=True)


@pytest.mark.parametrize(
    "flags",
    [
        {"tasks": ("hopper-medium-v2",), "steps": 300, "lambda_clip": (0.123456789,), "seeds": 1},
        {"tasks": ("bandit-ring",), "steps": 60, "rows": 300, "settings": ("data.seed=3", "hidden_size=64")},
        {
            "tasks": ("hopper-medium-v2",),
            "steps": 900,
            "data": "collected",
            "physics": "modern",
            "profile": "principled",
        },
        {"tasks": ("pointmaze-umaze",), "algorithm": "td3bc", "settings": ("batch_size=32", "precision=bf16")},
        {"tasks": ("bandit-ring",), "last_step_noise": True, "covariance": "calibrated", "steps": 100},
    ],
)
def test_the_command_runs_the_configuration_at_full_length(flags: dict[str, Any]) -> None:
    """All settings are those of the short trial, exactly; steps and seeds are the usual ones."""
    (short,) = build(SweepOptions(**flags)).trials
    words = shlex.split(full_length_command(short, ["/data/one", "two words"]))
    assert words[:2] == ["diffcps", "sweep"]
    read = tyro.cli(SweepOptions, args=words[2:])
    assert [str(folder) for folder in read.data_dir] == ["/data/one", "two words"]
    (long,) = build(read).trials
    assert long.steps == get_task(short.task).steps
    assert len(long.members) == 5
    assert (long.algorithm, long.profile, long.physics, long.data) == (
        short.algorithm, short.profile, short.physics, short.data,
    )  # fmt: skip
    of_length = {"behaviour_steps"} if short.profile == "principled" else set()
    assert {n: v for n, v in long.settings.items() if n not in of_length} == {
        n: v for n, v in short.settings.items() if n not in of_length
    }


def scored(clip: float, bound: float, score: float, path: Path) -> Trial:
    stored = trial("bandit-ring", lambda_clip=clip, target_kl=bound)
    return Trial(stored.key, path, "complete", stored, {"state": "complete", "last": score})


def test_importance_of_what_alone_matters(tmp_path: Path) -> None:
    plan = Plan("", "search", (trial("bandit-ring"),), (CLIP, BOUND), 30)
    trials = [scored(i / 30, 0.01 + 0.29 * ((7 * i) % 30) / 30, -abs(i / 30 - 0.7), tmp_path) for i in range(30)]
    found = importances(trials, plan)
    assert sum(found.values()) == pytest.approx(1)
    assert found["lambda_clip"] > 0.8
    assert importances(trials[:3], plan) == {}, "too few"
    same = [scored(i / 9, 0.1, 5.0, tmp_path) for i in range(9)]
    assert importances(same, plan) == {}, "nothing matters"


@pytest.fixture
def searched(tmp_path: Path) -> Report:
    """Three complete trials and one that is not, which does not count although its score is the highest."""
    points = (0.5, 0.1, 0.0), (0.25, 0.2, 9.0), (0.75, 0.05, 4.0)
    for clip, bound, lift in points:
        synthetic.write(tmp_path, synthetic.config(seeds=2, lambda_clip=clip, target_kl=bound), lift=lift)
    synthetic.write(tmp_path, synthetic.config(seeds=2, lambda_clip=0.9, target_kl=0.15), "stopped", 100, lift=50.0)
    folder = synthetic.describe(tmp_path, synthetic.config(seeds=2), axes=(CLIP, BOUND), search=4)
    write_json(folder / IMPORTANCES, {"hopper-medium-v2": {"lambda_clip": 0.9, "target_kl": 0.1}})
    return report.build(folder)


def test_a_search_ends_with_its_answer(searched: Report) -> None:
    said, command = searched.answer
    assert all(fact in said for fact in ("hopper-medium-v2", "λ-clip=0.25", "κ=0.2", "3 complete trials"))
    assert "lambda_clip=0.25" in command
    text = searched.text("The best configuration").markdown.replace("\\", "")
    assert all(fact in text for fact in ("λ-clip=0.25", "90 %", "10 %", "lambda_clip=0.25", "last score"))


def test_the_score_is_drawn_along_each_axis(searched: Report) -> None:
    for axis in ("lambda_clip", "target_kl"):
        assert len(searched.picture(f"search_{axis}").png) > 1000


def test_other_sweeps_and_empty_searches_have_no_answer(tmp_path: Path) -> None:
    synthetic.write(tmp_path / "grid", synthetic.config(seeds=2))
    assert report.build(synthetic.describe(tmp_path / "grid", synthetic.config(seeds=2))).answer == []
    synthetic.write(tmp_path / "begun", synthetic.config(seeds=2), "stopped", 100)
    begun = synthetic.describe(tmp_path / "begun", synthetic.config(seeds=2), axes=(CLIP,), search=4)
    assert report.build(begun).answer == []
