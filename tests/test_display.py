"""The live view of a sweep: a table on a terminal, lines in a log file, and nothing that can end it."""

import io
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import run_folders as synthetic
from rich.console import Console

from diffcps import algorithms
from diffcps.config import EvaluationConfig, RunConfig
from diffcps.runs.folder import RunFolder
from diffcps.runs.plan import Axis, Plan
from diffcps.runs.presets import made
from diffcps.runs.time_left import seconds_left, seconds_per_step, until_the_end
from diffcps.runs.trial import Trial, read_trial
from diffcps.storage.location import Location
from diffcps.sweep.display import MOST_ROWS, Board, names
from diffcps.tasks.registry import get_task
from diffcps.text import duration

STEPS = 2000


def config(count: int, task: str = "bandit-ring") -> RunConfig:
    return synthetic.config(task, seeds=2, diffusion_steps=count, steps=STEPS)


GRID = Plan("grid", "paper", tuple(map(config, range(1, 7))))


def board(root: Path, plan: Plan = GRID, out: io.StringIO | None = None, terminal: bool = False, **how: Any) -> Board:
    return Board(plan, Location(root), Console(file=out, force_terminal=terminal, width=150), **how)


def folder_of(root: Path, trial: RunConfig) -> RunFolder:
    return Location(root).run_folder(trial.key)


def sweep_folder(root: Path) -> Board:
    """A sweep with a trial in each state, the sixth without a status, the seventh not started."""
    plan = Plan("grid", "paper", (*GRID.trials, config(5, "pointmaze-umaze")))
    # the attempt's own speed, with evaluations, is another
    running = {"state": "running", "step": 1500, "steps_per_second": 30.0, "seconds": {"learning": 1500 / 40.25}}
    statuses: list[dict[str, Any] | None] = [
        {"state": "complete", "step": STEPS, "steps_per_second": 3.0, "seconds_left": 0.0, "last": 81.04, "best": 90.0},
        {"state": "failed", "step": 100, "error": "RuntimeError: [/red] the | disk " + "x" * 99 + "\nand more"},
        {**running, "seconds_left": 125.0, "last": 12.34, "best": 56.78},
        {"state": "stopped", "step": 1000, "steps_per_second": 3.0, "seconds_left": 9.0, "last": 1.0, "best": 2.0},
        {"state": "running", "step": 0, "steps_per_second": 0.0, "seconds_left": None},
        None,
    ]  # fmt: skip
    for trial, status in zip(plan.trials, statuses, strict=False):
        folder = folder_of(root, trial)
        folder.create(trial)
        if status:
            folder.write_status({"steps": STEPS, **status})
    return board(root, plan)


def shown(found: Board) -> str:
    with found.console.capture() as capture:
        found.console.print(found.table())
    return capture.get()


def test_lines_show_what_runs(tmp_path: Path) -> None:
    found = sweep_folder(tmp_path)
    heading, *lines = found.lines(found.trials())
    name, states, elapsed, speed, left = heading.replace(" · ", ": ").split(": ")
    assert name == "grid"
    assert sorted(states.split(", ")) == ["1 complete", "1 failed", "1 stopped", "2 pending", "2 running"]
    assert elapsed == "0 s"
    assert speed == "40.2 steps/s"
    # three trials know their speed; whichever of the two running ones ends first is followed by the failed one, which is
    # tried again, then by the stopped one, then by the two pending ones
    pace = (1 / 40.25 + 1 / 3 + 1 / 3) / 3
    ends = [125.0, STEPS * pace]
    for steps, seconds in ((STEPS - 100, pace), (STEPS - 1000, 1 / 3), (STEPS, pace), (STEPS, pace)):
        ends.append(ends.pop(ends.index(min(ends))) + steps * seconds)
    assert left == f"about {duration(max(ends))} left"
    assert len(lines) == 2
    ahead = next(line for line in lines if "T3" in line)
    for cell in (
        "bandit-ring diffcps T3",
        "running",
        "1,500/2,000  75%",
        "40.2/s",
        "2 min left",
        "last 12.3",
        "best (oracle) 56.8",
    ):
        assert cell in ahead
    begun = next(line for line in lines if "T5" in line)
    assert "0/2,000   0%" in begun
    assert "left" not in begun
    assert "last" not in begun


def test_in_its_last_evaluation_a_trial_has_no_time_left_that_is_known(tmp_path: Path) -> None:
    trial = config(3)
    folder = folder_of(tmp_path, trial)
    folder.create(trial)
    status = {"state": "running", "step": STEPS, "steps_per_second": 40.0, "seconds_left": 0.0}
    folder.write_status({**status, "updated": time.time()})
    found = board(tmp_path, Plan("grid", "paper", (trial,)))
    heading, line = found.lines(found.trials())
    assert "left" not in heading + line
    assert "last evaluation" in line


def test_table_shows_every_state(tmp_path: Path) -> None:
    """Running first; a reason is one line, shortened, and is never read as markup; no speed for what does not run."""
    found = sweep_folder(tmp_path)
    assert [trial.state for trial in found.trials()] == [
        "running", "running", "failed", "stopped", "complete", "pending", "pending",
    ]  # fmt: skip
    text = shown(found)
    rows = {n: next(line for line in text.splitlines() if f" {n} " in line) for n in ("T1", "T2", "T3", "T4", "T6")}
    assert "RuntimeError: [/red] the | disk xxxx" in rows["T2"]
    assert "x" * 40 not in text
    assert "81.0" in rows["T1"]
    assert "100%" in rows["T1"]
    assert "/s" not in rows["T1"] + rows["T4"]
    assert "50%" in rows["T4"]
    assert "pending" in rows["T6"]
    assert "40.2/s" in rows["T3"]
    assert "pointmaze-umaze" in text


def test_table_of_many_trials_is_cut(tmp_path: Path) -> None:
    text = shown(board(tmp_path, Plan("many", "paper", tuple(map(config, range(1, MOST_ROWS + 6))))))
    assert text.count("bandit-ring") == MOST_ROWS
    assert "and 5 more" in text
    assert f"{MOST_ROWS + 5} pending" in text


def test_trials_of_one_name_are_told_apart() -> None:
    """A study has many trials of one T, λ-clip and κ."""
    usual: dict[str, Any] = {"seeds": 2, "diffusion_steps": 5, "lambda_clip": 0.0, "steps": STEPS}
    changes: list[dict[str, Any]] = [{}, {"profile": "principled"}, {"policy": "gaussian"}]
    several = [made(get_task("bandit-ring"), usual | more) for more in changes]
    base = several[0]
    wider = several[2].with_settings(hidden_size=31)
    alone = config(10)
    found = names([*several, wider, alone])
    assert set(found) == {trial.key for trial in (*several, wider, alone)}
    assert len(set(found.values())) == len(found)
    said = [" ".join(found[trial.key].split()[:4]) for trial in several]
    assert said == [
        "bandit-ring diffcps T5 clip0",
        "bandit-ring diffcps principled T5",
        "bandit-ring diffcps gaussian T5",
    ]
    assert found[several[2].key].endswith(f" hidden_size {base.value('hidden_size')}")
    assert found[wider.key].endswith(" hidden_size 31")
    assert found[alone.key] == alone.key.rpartition("_")[0].replace("_", " ")


def test_search_counts_what_it_will_run(tmp_path: Path) -> None:
    """Trials of a search have no folder before they are suggested."""
    axes = (Axis("diffusion_steps", low=1, high=50),)
    plan = Plan("s", "search", (config(5), config(5, "pointmaze-umaze")), axes, search=6)
    found = board(tmp_path, plan)
    assert "12 pending" in found.lines(found.trials())[0]
    trial = config(10)
    folder_of(tmp_path, trial).create(trial)
    folder_of(tmp_path, trial).write_status({"state": "running", "step": 1, "steps": STEPS})
    heading, line = found.lines(found.trials())
    assert "1 running, 11 pending" in heading
    assert "bandit-ring diffcps T10" in line


def test_empty_folder_is_no_error(tmp_path: Path) -> None:
    found = board(tmp_path / "nothing")
    assert "6 pending" in found.lines(found.trials())[0]
    (tmp_path / "nothing" / "runs").mkdir(parents=True)
    (tmp_path / "nothing" / "runs" / "stray.txt").touch()
    assert "6 pending" in shown(found)


@pytest.mark.parametrize("text", ["{", "[]", '{"state": "elsewhere"}', "{}"])
def test_a_damaged_status_does_not_end_the_view(tmp_path: Path, text: str) -> None:
    found = sweep_folder(tmp_path)
    (folder_of(tmp_path, GRID.trials[3]).path / "status.json").write_text(text)
    assert [trial.state for trial in found.trials()].count("damaged") == 1
    heading, *lines = found.lines(found.trials())
    assert "1 damaged" in heading
    assert len(lines) == 2
    row = next(line for line in shown(found).splitlines() if " T4 " in line)
    assert "damaged" in row
    assert str(tmp_path)[:10] in row
    out = io.StringIO()
    watching = board(tmp_path, out=out, terminal=True, every=0.05)
    with watching:
        time.sleep(0.2)
        assert watching._thread.is_alive()
    assert "bandit-ring diffcps T3" in out.getvalue()


@pytest.mark.parametrize("every", [0.05, 1000.0])
def test_a_log_says_once_how_a_trial_ended(tmp_path: Path, every: float) -> None:
    """Also of one that ends after the last look."""
    found = sweep_folder(tmp_path)
    now = found.trials()
    told = found.news([Trial(trial.key, trial.folder, "pending") for trial in now], now)
    assert len(told) == 2
    assert any(
        "bandit-ring diffcps T1 " in line and line.endswith("  complete  last 81.0  best (oracle) 90.0")
        for line in told
    )
    assert any("  failed: RuntimeError: [/red] the | disk x" in line for line in told)
    assert all("\n" not in line for line in told)
    assert found.news(now, now) == []
    out = io.StringIO()
    with board(tmp_path, found.plan, out, every=every):
        time.sleep(0.1)
        folder = folder_of(tmp_path, GRID.trials[2])
        folder.write_status({**folder.status, "state": "failed", "error": "ValueError: [bold]no[/bold] number"})
        time.sleep(0.3)
    assert out.getvalue().count("failed: ValueError: [bold]no[/bold] number") == 1


@pytest.mark.parametrize("terminal", [True, False])
def test_board_watches_and_goes(tmp_path: Path, terminal: bool) -> None:
    sweep_folder(tmp_path)
    out = io.StringIO()
    watching = board(tmp_path, out=out, terminal=terminal, every=0.05)
    with watching:
        time.sleep(0.3)
    assert not watching._thread.is_alive()
    assert "bandit-ring diffcps T3" in out.getvalue()
    before = out.getvalue()
    with board(tmp_path, out=out, terminal=terminal, quiet=True):
        time.sleep(0.1)
    assert out.getvalue() == before


def test_the_next_trial_begins_when_the_first_has_ended() -> None:
    assert until_the_end([10.0, 100.0], [30.0, 30.0, 50.0]) == 120.0
    assert until_the_end([10.0], []) == 10.0
    assert seconds_per_step(None, 5.0, 10) is None
    assert seconds_per_step(4.0, None, 10) == 0.25
    assert seconds_per_step(4.0, 50.0, 10) == 5.0


def test_what_comes_before_the_first_step_is_told(tmp_path: Path) -> None:
    found = sweep_folder(tmp_path)
    compiling = folder_of(tmp_path, GRID.trials[5])
    compiling.note_doing("compiling")
    (first,) = [trial for trial in found.trials() if trial.doing]
    assert first.key in [trial.key for trial in found.trials()[:3]], "among those that run"
    assert (first.key, first.state, first.doing) == (GRID.trials[5].key, "pending", "compiling, 0 s")
    assert "compiling, 0 s" in shown(found)
    assert any("compiling, 0 s" in line for line in found.lines(found.trials()))
    compiling.fail("no room")
    assert not read_trial(compiling.path).doing, "it is over"
    folder = folder_of(tmp_path, GRID.trials[3])
    folder.note_doing("reading data")
    assert read_trial(folder.path).doing
    assert not read_trial(folder.path, alive=time.time() + 1).doing, "an earlier launch said so"


def test_a_trial_that_is_like_none_takes_what_its_algorithm_takes_elsewhere() -> None:
    def one(task: str, algorithm: str, state: str, whole: float | None = None) -> Any:
        values = {"steps_per_second": whole and 1.0, "seconds_whole": whole}
        settings = algorithms.complete(
            RunConfig(task, algorithm=algorithm, steps=100, evaluation=EvaluationConfig(candidates=1))
        )
        return SimpleNamespace(
            config=settings,
            state=state,
            stored=True,
            steps=100,
            step=0,
            seconds_left=whole,
            updated=0.0,
            number=values.get,
        )

    trials = [
        one("bandit-ring", "iql", "complete", 10.0),
        one("bandit-ring", "bc", "running", 400.0),
        one("bandit-corners", "iql", "pending"),
    ]
    plan = Plan("grid", "paper", tuple(trial.config for trial in trials))
    assert seconds_left(plan, trials, 0.0) == 410.0, "one at a time: the one that runs, then 10 s like the other of IQL"
