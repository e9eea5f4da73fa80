"""What a report says across tasks, of the constraint and of the critic; and what it never puts together."""

from pathlib import Path

import numpy as np
import pytest
import run_folders as synthetic
import trained

from diffcps import report
from diffcps.config import EvaluationConfig, RunConfig
from diffcps.report import algorithms
from diffcps.report.across import Group, comparable, improvement, improvements
from diffcps.report.analysis import along, beside_paper, lines
from diffcps.report.contents import Report
from diffcps.report.diagnostics import diagnose, discounted
from diffcps.report.document import Bullets
from diffcps.runs.trial import Trial, read_trial
from diffcps.tasks.registry import get_task

LOCOMOTION = "halfcheetah-medium-v2", "hopper-medium-v2", "walker2d-medium-v2"


def table(root: Path, *trials: RunConfig) -> Report:
    return report.build(synthetic.describe(root, *trials))


def trial_of(root: Path, trial: RunConfig, **changes: float) -> Trial:
    return read_trial(synthetic.write(root, trial, **changes).path)


@pytest.fixture
def two(tmp_path: Path) -> Report:
    """Two configurations on three tasks; that with T = 15 returns 200 more."""
    trials = [synthetic.config(task, diffusion_steps=steps) for task in LOCOMOTION for steps in (5, 15)]
    for trial in trials:
        synthetic.write(tmp_path, trial, lift=200.0 if trial.value("diffusion_steps") == 15 else 0.0)
    return table(tmp_path, *trials)


def test_groups_are_configurations_over_the_tasks_of_a_domain(two: Report) -> None:
    assert [(group.domain, group.configuration, group.tasks) for group in two.groups] == [
        ("locomotion", "T=5", LOCOMOTION),
        ("locomotion", "T=15", LOCOMOTION),
    ]
    low = two.groups[0]
    scores = np.array([get_task(task).normalised_score(1501.0 + 10.0 * np.arange(3)) for task in LOCOMOTION])
    found = {name: estimate.value for name, estimate in low.aggregates.items()}
    expected = {
        "IQM": np.sort(scores.ravel())[2:7].mean(),
        "median": np.median(scores.mean(axis=1)),
        "mean": scores.mean(),
        "optimality gap": 100.0 - scores.mean(),
    }
    assert found == pytest.approx(expected)
    assert all(estimate.low < estimate.value < estimate.high for estimate in low.aggregates.values())


def test_probability_of_improvement_between_any_two_groups(two: Report) -> None:
    low, high = two.groups
    found = improvement(high, low)
    assert found is not None
    assert (found.probability, found.tasks) == ((1.0, 1.0, 1.0), LOCOMOTION)
    assert [item.probability.value for item in improvements([low, high])] == [0.0]
    text = two.markdown()
    assert "| X | Y | tasks | P(X > Y) | 95 % interval |" in text.replace("\\", "").replace("domain | ", "")
    assert "| T=5 | T=15 | 3 | 0.00 | [0.00, 0.00] |" in text


def test_groups_without_a_common_task_are_not_compared(two: Report) -> None:
    low, high = two.groups
    other = Group(high.domain, high.data, high.physics, high.profile, "T=15", high.rows[:1])
    assert improvement(Group(low.domain, low.data, low.physics, low.profile, "", low.rows[1:]), other) is None


def test_performance_profiles_are_shares_of_runs(two: Report) -> None:
    low = two.groups[0]
    share, _, _ = low.profile_curve(np.array([-1000.0, 40.0, 1000.0]))
    above = np.mean([(task > 40.0).mean() for task in low.scores()])
    assert share.tolist() == [1.0, pytest.approx(above), 0.0]
    assert {figure.name for figure in two.document.figures} >= {"profiles", "sensitivity_diffusion_steps", "budget"}


def test_antmaze_v0_and_v2_share_neither_table_nor_average(tmp_path: Path) -> None:
    names = [f"antmaze-{maze}-{version}" for version in ("v0", "v2") for maze in ("umaze", "medium-play")]
    trials = [synthetic.config(name) for name in names]
    for trial in trials:
        synthetic.write(tmp_path, trial, provenance="unverified", behaviour_return=0.5)
    built = table(tmp_path, *trials)
    assert [(group.domain, len(group.rows)) for group in built.averages] == [("antmaze v0", 2), ("antmaze v2", 2)]
    assert len(comparable(built.groups)) == 2
    text = built.markdown()
    first, second = text.index("| antmaze-umaze-v0"), text.index("| antmaze-umaze-v2")
    assert first < text.index("### AntMaze v2: ") < second
    assert "| antmaze-umaze-v2 ‡§ |" in text
    assert "‡ the data are not the paper's." in text


def test_other_physics_and_other_data_are_never_put_together(tmp_path: Path) -> None:
    trials = [synthetic.config("hopper-medium-v2", physics="modern"), *map(synthetic.config, LOCOMOTION)]
    for trial in trials:
        synthetic.write(tmp_path, trial, provenance="other" if trial.task == "walker2d-medium-v2" else "verified")
    built = table(tmp_path, *trials)
    assert [(group.physics, group.data, len(group.rows)) for group in built.groups] == [
        ("modern", "D4RL", 1),
        ("d4rl", "D4RL", 2),
        ("d4rl", "not D4RL's", 1),
    ]
    assert "| hopper-medium-v2 § |" in built.markdown()
    assert "Physics modern instead of d4rl: hopper-medium-v2" in built.markdown()


def test_incomplete_trials_count_nowhere_across_tasks(tmp_path: Path) -> None:
    trials = [synthetic.config(task) for task in LOCOMOTION]
    for trial, state in zip(trials, ("running", "failed", "complete"), strict=True):
        synthetic.write(tmp_path, trial, state, 200 if state != "complete" else 400)
    built = table(tmp_path, *trials)
    assert [group.tasks for group in built.groups] == [LOCOMOTION[2:]]
    assert not built.averages
    assert "Across tasks" not in built.markdown()


def test_expected_online_performance_is_over_the_configurations_of_a_task(tmp_path: Path) -> None:
    trials = [synthetic.config(lambda_clip=clip) for clip in (0.0, 0.1)]
    for trial, lift in zip(trials, (0.0, 300.0), strict=True):
        synthetic.write(tmp_path, trial, lift=lift)
    built = table(tmp_path, *trials)
    (found,) = built.budgets
    low, high = (float(get_task("hopper-medium-v2").normalised_score(value)) for value in (1511.0, 1811.0))
    assert found.mean.tolist() == pytest.approx([(low + high) / 2, (low + 3 * high) / 4])
    assert "| hopper-medium-v2 | D4RL | 2 |" in built.markdown()


def test_a_line_of_sensitivity_differs_in_one_setting_only(tmp_path: Path) -> None:
    points = [(5, 0.0), (5, 0.1), (15, 0.0), (15, 0.1)]
    trials = [synthetic.config(diffusion_steps=steps, lambda_clip=clip) for steps, clip in points]
    for trial in trials:
        synthetic.write(tmp_path, trial)
    rows = table(tmp_path, *trials).rows
    assert [(line.label, [value for value, _ in line.points]) for line in lines(rows, "diffusion_steps")] == [
        ("λ-clip=0", [5, 15]),
        ("λ-clip=0.1", [5, 15]),
    ]
    assert [line.label for line in lines(rows, "lambda_clip")] == ["T=5", "T=15"]
    other = synthetic.config(diffusion_steps=20, target_kl=0.3)
    synthetic.write(tmp_path, other)
    joined = lines(table(tmp_path, *trials, other).rows, "diffusion_steps")
    assert [(line.label, [value for value, _ in line.points]) for line in joined] == [
        ("λ-clip=0 κ=0.05", [5, 15]),
        ("λ-clip=0.1 κ=0.05", [5, 15]),
    ]


def test_any_setting_that_is_a_number_has_lines_and_any_two_have_a_grid(tmp_path: Path) -> None:
    base = synthetic.config(seeds=2)
    trials = [
        base.with_settings(hidden_size=size, covariance=covariance)
        for size in (64, 256)
        for covariance in ("posterior", "forward")
    ]
    for trial in trials:
        synthetic.write(tmp_path, trial)
    built = table(tmp_path, *trials)
    assert {name: [line.label for line in found] for name, found in along(built.rows).items()} == {
        "hidden_size": ["covariance=posterior", "covariance=forward"]
    }
    assert "sensitivity_hidden_size" in {figure.name for figure in built.document.figures}
    assert [(grid.names, grid.values) for grid in built.grids] == [
        (("hidden_size", "covariance"), ((64, 256), ("forward", "posterior")))
    ]


def test_the_papers_ablation_stands_beside_best_scores_on_its_data_only(tmp_path: Path) -> None:
    trials = [synthetic.config(lambda_clip=clip) for clip in (0.0, 0.1, 0.7)]
    for trial in trials:
        synthetic.write(tmp_path / "a", trial)
        synthetic.write(tmp_path / "b", trial, provenance="other")
    (found,) = beside_paper(table(tmp_path / "a", *trials).rows)
    assert [(clip, theirs) for clip, _, theirs in found.points] == [(0.0, 98.0), (0.1, 100.0)]
    assert "best (oracle) | evaluations | published DiffCPS (best)" in table(tmp_path / "a", *trials).markdown()
    assert not beside_paper(table(tmp_path / "b", *trials).rows)


def test_violations_are_counted_row_by_row(tmp_path: Path) -> None:
    # losses are step / 100 + seed: 0.5, 1, … 4 for seed 0, of which 3.5 and 4 are above κ = 3; seed 1 has 4, seed 2 all 8 - 2
    found = diagnose(trial_of(tmp_path, synthetic.config(target_kl=3.0)))
    above = np.array([[step / 100 + seed > 3.0 for seed in range(3)] for step in range(50, 401, 50)])
    assert found.violations == pytest.approx(above.mean())
    assert found.late_violations == pytest.approx(above[4:].mean())
    assert (found.bound, found.ratio) == (3.0, pytest.approx(5.0 / 3.0))
    assert (found.behaviour_loss, found.multiplier, found.q_value) == (5.0, 0.5, 5.0)


def test_an_algorithm_without_a_multiplier_violates_nothing(tmp_path: Path) -> None:
    trial = synthetic.config()
    folder = synthetic.write(tmp_path, trial)
    text = (folder.path / "metrics.csv").read_text().replace(",lambda,", ",other,")
    (folder.path / "metrics.csv").write_text(text)
    found = diagnose(read_trial(folder.path))
    assert np.isnan([found.violations, found.bound, found.ratio, found.multiplier]).all()
    assert found.behaviour_loss == 5.0


def test_discounted_returns_are_on_the_critics_scale(tmp_path: Path) -> None:
    # 9 steps an episode: R/9 · (1 + γ + … + γ⁸)
    trial = trial_of(tmp_path, synthetic.config(seeds=1))
    weights = 0.99 ** np.arange(9)
    assert discounted(trial)[-1].tolist() == pytest.approx([1501.0 / 9 * weights.sum()])
    maze = trial_of(tmp_path / "maze", synthetic.config("antmaze-umaze-v0", seeds=1))
    assert discounted(maze)[-1].tolist() == pytest.approx([4 * (1501.0 / 9 - 0.5) * weights.sum()])


def test_departures_from_the_paper_are_told(tmp_path: Path) -> None:
    trial = synthetic.config(diffusion_steps=15)
    folder = synthetic.write(tmp_path, trial, provenance="other")
    environment = folder.environment
    folder.record_environment(environment | {"versions": {"mujoco": "4.0.0"}})
    text = table(tmp_path, trial).markdown().replace("\\", "")
    lines = text[text.index("## Departures from the paper") : text.index("## Made with")].splitlines()
    facts = "diffusion_steps 15", "2,000,000 gradient", "seeds", "Data that are not D4RL's", "MuJoCo 4.0.0"
    assert all(any(fact in line for line in lines) for fact in facts)
    assert environment["dataset"]["checksum"] in text


def test_a_setting_of_any_kind_that_varies_gets_a_column(tmp_path: Path) -> None:
    base = synthetic.config()
    trials = [base, base.with_settings(hidden_size=64)]
    for trial in trials:
        synthetic.write(tmp_path, trial)
    built = table(tmp_path, *trials)
    assert "| hidden_size | data |" in built.markdown().replace("\\", "")
    assert [group.configuration for group in built.groups] == ["hidden_size=256", "hidden_size=64"]


def test_two_profiles_are_named_row_by_row_and_kept_apart(tmp_path: Path) -> None:
    trials = [synthetic.config(task, profile=profile) for task in LOCOMOTION for profile in ("official", "principled")]
    for trial in trials:
        synthetic.write(tmp_path, trial)
    built = table(tmp_path, *trials)
    assert "| data | profile |" in built.markdown()
    assert [(group.profile, len(group.rows)) for group in built.groups] == [("official", 3), ("principled", 3)]
    assert "| official | principled | 3 | 0.50 |" in built.markdown()


def test_settings_of_the_evaluation_vary_too(tmp_path: Path) -> None:
    trials = [
        synthetic.config(
            evaluation=EvaluationConfig(every=synthetic.EVERY, episodes=synthetic.EPISODES, candidates=count)
        )
        for count in (1, 5)
    ]
    for trial in trials:
        synthetic.write(tmp_path, trial)
    built = table(tmp_path, *trials)
    assert [line.label for line in lines(built.rows, "evaluation.candidates")] == [""]
    assert "evaluation.candidates" in built.markdown()


def test_algorithms_stand_side_by_side(tmp_path: Path) -> None:
    """One trial of each on a task, one of them on other data; who is ahead follows from the intervals."""
    scores = {
        "diffcps": (80.0, 84.0, 82.0, 81.0, 83.0),
        "iql": (40.0, 41.0, 40.0, 41.0, 40.0),
        "td3bc": (79.0, 82.0, 80.0, 81.0, 82.0),
    }
    trials = [trained.config(algorithm=name, seeds=5) for name in scores]
    for trial, own in zip(trials, scores.values(), strict=True):
        trained.write(tmp_path, trial, own)
    found = table(tmp_path, *trials)
    (item,) = algorithms.side_by_side(found.rows)
    assert list(item.scores) == ["diffcps", "td3bc", "iql"]
    shown = {name: f"{at.mean:.1f} [{at.low:.1f}, {at.high:.1f}]" for name, at in item.scores.items()}
    assert item.verdict == (
        f"hopper-medium-v2: diffcps {shown['diffcps']} is highest, not clear of td3bc {shown['td3bc']}; clear of 1 other"
    )
    section, *_, verdicts = algorithms.sections(found.rows, found.groups, narrow=True)
    assert section.title == "Algorithms side by side"
    assert Bullets((item.verdict,)) in verdicts.blocks
    text = found.markdown()
    assert text.count("82.0 ± 1.6") >= 2
    assert text.index("## Algorithms side by side") < text.index("## Every trial")
    main = str(found.text())
    assert "| algorithm" in main, "the main table says which is which"
    names = [column for row in found.rows for column in row.trial.values("algorithm")]
    assert sorted(names) == sorted(scores)
    assert "alpha" not in main, "what only one algorithm has does not vary"
    twice = [*trials, trained.config(algorithm="iql", expectile=0.9)]
    trained.write(tmp_path, twice[-1], (50.0, 51.0))
    again = table(tmp_path, *twice)
    assert algorithms.side_by_side(again.rows) == [], "two trials of one algorithm would have to be chosen between"


@pytest.mark.parametrize(
    ("seeds", "verdict"), [(5, "clear of all others; next iql 40.4"), (2, "is highest; too few seeds to say more (2)")]
)
def test_an_algorithm_is_ahead_when_its_interval_lies_above_all_others(
    tmp_path: Path, seeds: int, verdict: str
) -> None:
    trials = [trained.config(algorithm=name, seeds=seeds) for name in ("diffcps", "iql")]
    for trial, own in zip(trials, ((80.0, 84.0, 82.0, 81.0, 83.0), (40.0, 41.0, 40.0, 41.0, 40.0)), strict=True):
        trained.write(tmp_path, trial, own[:seeds])
    (item,) = algorithms.side_by_side(table(tmp_path, *trials).rows)
    assert item.verdict.startswith("hopper-medium-v2: diffcps 82.0 [")
    assert verdict in item.verdict


def test_nobody_is_ahead_of_equals(tmp_path: Path) -> None:
    """As in mazes at the beginning, where nobody reaches the goal."""
    trials = [trained.config(algorithm=name, seeds=1) for name in ("diffcps", "iql")]
    for trial in trials:
        trained.write(tmp_path, trial, (0.0,))
    (item,) = algorithms.side_by_side(table(tmp_path, *trials).rows)
    assert item.verdict == "hopper-medium-v2: all are at 0.0"
