"""Two sweeps held against each other: what is paired, what is refused, and what the differences are."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import run_folders as synthetic
from rich.console import Console

from diffcps import report
from diffcps.cli.report import Report
from diffcps.config import RunConfig
from diffcps.errors import UserError
from diffcps.report.comparison import difference, improvement
from diffcps.report.versus import Versus
from diffcps.tasks.registry import get_task

TASKS = "hopper-medium-v2", "walker2d-medium-v2"


def sweep(root: Path, *trials: RunConfig, lift: float = 0.0, **dataset: object) -> Path:
    for trial in trials:
        synthetic.write(root, trial, lift=lift, **dataset)
    return synthetic.describe(root, *trials)


@pytest.fixture
def pair(tmp_path: Path) -> Versus:
    """B has 100 more return on both tasks, other seeds too, and T = 15."""
    first = sweep(tmp_path / "a", *map(synthetic.config, TASKS))
    second = sweep(tmp_path / "b", *(synthetic.config(t, seeds=4, diffusion_steps=15) for t in TASKS), lift=100.0)
    return report.compare(first, second)


def test_differences_are_paired_by_seed(pair: Versus) -> None:
    hopper, walker = pair.comparison.pairs
    assert (hopper.task, walker.task, hopper.seeds) == (*TASKS, (0, 1, 2))
    task = get_task("hopper-medium-v2")
    step = float(task.normalised_score(100.0) - task.normalised_score(0.0))
    for kind in ("last", "newest", "best"):
        assert hopper.difference(kind) == pytest.approx((step, step, step))
    spans = [1.0 / (get_task(name).expert_return - get_task(name).random_return) for name in TASKS]
    assert difference(pair.comparison.pairs).value == pytest.approx(1e4 * np.mean(spans))
    # returns of seed k: 1501 + 10 k and 1601 + 10 k, k to 3: all of B's are above all of A's
    assert improvement([hopper]) == (1.0, 1.0, 1.0)
    assert list(pair.comparison.domains) == ["locomotion, D4RL, d4rl physics"]


def test_seeds_in_another_order_are_still_paired(tmp_path: Path) -> None:
    trial = synthetic.config()
    turned = trial.replaced(members=trial.members[::-1])
    built = report.compare(sweep(tmp_path / "a", trial), sweep(tmp_path / "b", turned))
    # the third member of B is seed 0, and member k returns 10 k more
    task = get_task("hopper-medium-v2")
    steps = [float(task.normalised_score(value) - task.normalised_score(0.0)) for value in (20.0, 0.0, -20.0)]
    assert built.comparison.pairs[0].differences().tolist() == pytest.approx(steps)


def test_every_format_says_it(pair: Versus) -> None:
    paths = pair.write()
    assert [path.name for path in paths] == [f"compared-with-a.{ending}" for ending in ("md", "csv", "tex", "html")]
    markdown = paths[0].read_text("utf-8")
    assert "# b compared with a" in markdown
    assert "| hopper-medium-v2 | 3 | 47.0 ± 0.3 | 50.1 ± 0.3 | +3.1 | [3.1, 3.1] | 1.00 |" in markdown
    assert "* hopper-medium-v2, A: 3 seeds; B: 4 seeds, diffusion\\_steps 15" in markdown
    record = next(csv.DictReader(paths[1].open()))
    assert float(record["last_difference"]) == pytest.approx(3.0727, abs=1e-3)
    assert (record["seeds"], record["probability_of_improvement"]) == ("0|1|2", "1.0")
    assert "\\toprule" in paths[2].read_text("utf-8")
    assert paths[3].read_text("utf-8").count("<svg") == 2
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    pair.print(console)
    assert "+3.1" in console.file.getvalue()  # type: ignore[attr-defined]
    narrow = Console(width=40, file=io.StringIO(), force_terminal=False)
    pair.print(narrow)
    text = " ".join(narrow.file.getvalue().split())  # type: ignore[attr-defined]
    assert f"See {pair.file}.md" in text
    assert "table.md" not in text


def refusal(first: Path, second: Path) -> str:
    with pytest.raises(UserError) as caught:
        report.compare(first, second)
    return str(caught.value)


def test_v0_is_never_paired_with_v2(tmp_path: Path) -> None:
    first = sweep(tmp_path / "a", synthetic.config("antmaze-umaze-v0"))
    second = sweep(tmp_path / "b", synthetic.config("antmaze-umaze-v2"))
    assert "antmaze-umaze-v0 in a is not paired with antmaze-umaze-v2 in b" in refusal(first, second)


def test_different_data_are_never_paired(tmp_path: Path) -> None:
    first, second = (
        sweep(tmp_path / "a", synthetic.config()),
        sweep(tmp_path / "b", synthetic.config(), checksum="f" * 64),
    )
    assert "different data (checksum c0ffeec0ffee… in a, ffffffffffff… in b)" in refusal(first, second)


def test_different_physics_unfinished_trials_and_other_seeds_are_never_paired(tmp_path: Path) -> None:
    base = sweep(tmp_path / "a", synthetic.config())
    modern = sweep(tmp_path / "b", synthetic.config(physics="modern"))
    assert "under d4rl physics in a, under modern in b" in refusal(base, modern)
    synthetic.write(tmp_path / "c", synthetic.config(), "running", 200)
    running = synthetic.describe(tmp_path / "c", synthetic.config())
    assert "running in c; only complete trials are compared" in refusal(base, running)
    trial = synthetic.config()
    shifted = trial.replaced(members=tuple(member.replaced(seed=member.seed + 7) for member in trial.members))
    assert "no seed in common" in refusal(base, sweep(tmp_path / "d", shifted))


def test_what_cannot_be_paired_is_said_beside_what_can(tmp_path: Path) -> None:
    first = sweep(tmp_path / "a", *map(synthetic.config, TASKS))
    second = sweep(tmp_path / "b", synthetic.config(TASKS[0]), synthetic.config("halfcheetah-medium-v2"))
    built = report.compare(first, second)
    assert [pair.task for pair in built.comparison.pairs] == [TASKS[0]]
    assert built.comparison.left_out == (f"{TASKS[1]} is in a only.", "halfcheetah-medium-v2 is in b only.")
    assert "## Not compared" in built.write()[0].read_text("utf-8")


def test_several_configurations_are_paired_by_their_settings(tmp_path: Path) -> None:
    first = sweep(tmp_path / "a", *(synthetic.config(lambda_clip=clip) for clip in (0.0, 0.1)))
    second = sweep(tmp_path / "b", *(synthetic.config(lambda_clip=clip) for clip in (0.1, 0.2)), lift=50.0)
    built = report.compare(first, second)
    assert [pair.first.trial.values("lambda_clip") for pair in built.comparison.pairs] == [(0.1,)]
    assert built.comparison.left_out == (
        f"{TASKS[0]}: λ-clip=0 is in a only, not in b.",
        f"{TASKS[0]}: λ-clip=0.2 is in b only, not in a.",
    )


def test_two_sweeps_of_one_name_are_called_by_their_folders(tmp_path: Path) -> None:
    first, second = (sweep(tmp_path / where / "same", synthetic.config()) for where in ("x", "y"))
    assert report.compare(first, second).comparison.names == (str(first), str(second))


def test_the_command_compares_and_names_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(tmp_path / "a", synthetic.config())
    sweep(tmp_path / "b", synthetic.config(), lift=10.0)
    Report("a", "b", results=str(tmp_path))()
    assert f"page: {tmp_path}/b/compared-with-a.html" in capsys.readouterr().out
    with pytest.raises(UserError, match="'c'"):
        Report("a", "c", results=str(tmp_path))()
