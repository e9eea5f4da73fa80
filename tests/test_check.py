"""``diffcps data check``: what it measures, what it warns of, how it ends, and that no file makes it stumble."""

import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import minari_sets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from recordings import record, write

from diffcps import cli, envs
from diffcps.config import DataConfig
from diffcps.data import collected, d4rl, imports, library, minari_tasks
from diffcps.data.checking import check, layouts, pictures, recording, statistics
from diffcps.data.checking.recording import Recording
from diffcps.errors import UserError
from diffcps.tasks import paper
from diffcps.tasks.registry import get_task

HOPPER, ANT = get_task("hopper-medium-v2"), get_task("antmaze-umaze-v0")
FUZZ_EXAMPLES = int(os.environ.get("DIFFCPS_FUZZ_EXAMPLES", "40"))
PNG = b"\x89PNG\r\n"


@pytest.fixture(scope="module")
def hopper():
    return record("hopper-medium-v2", "modern")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No data of the person who runs the tests, and nothing written where they are."""
    for name in ("HOME", "DIFFCPS_HOME", "DIFFCPS_DATA", "MINARI_DATASETS_PATH"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def copy(content):
    return {key: np.array(value) for key, value in content.items()}


def look(tmp_path, content, rows=0, name="hopper_medium-v2.hdf5") -> check.Check:
    return check.examine(library.look_up(str(write(tmp_path / name, content)), None, ()), ("modern",), rows).check


def said(found: check.Check) -> str:
    return "\n".join(found.remarks)


def command(*arguments) -> int:
    try:
        cli.run(cli._Command, lambda c: c(), ["data", "check", *map(str, arguments)])
    except SystemExit as end:
        return end.code
    raise AssertionError("a command ends with a status")


# What is measured


def test_a_whole_file(tmp_path, hopper):
    found = look(tmp_path, hopper, rows=1000)
    read = d4rl.load(HOPPER, tmp_path / "hopper_medium-v2.hdf5")
    ends = int((hopper["terminals"] | hopper["timeouts"]).sum())
    assert (found.task, found.source, found.refusal) == ("hopper-medium-v2", "d4rl", None)
    assert (found.rows, found.transitions) == (300, len(read))
    assert (found.trajectories.complete, found.trajectories.cut) == (ends, 1)
    assert found.trajectories.returns.mean == pytest.approx(read.info.returns.mean())
    assert found.trajectories.normalised.maximum == pytest.approx(HOPPER.normalised_score(read.info.returns.max()))
    assert found.trajectories.lengths.maximum == 60
    assert (found.ends.terminals, found.ends.timeouts) == (hopper["terminals"].sum(), hopper["timeouts"].sum())
    assert (found.ends.jumps, found.ends.jumps_unflagged, found.ends.ends_without_jump) == (ends, 0, 0)
    assert found.arrays["infos/qpos"] == "float32 [300, 6]"
    assert found.duplicates == 0
    assert found.provenance == "other"
    assert found.parity.came_from == "modern"
    assert "use --physics modern" in said(look(tmp_path, hopper, rows=50)) or found.parity.results[0].fits
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["parity"]["came_from"] == "modern"


def test_time_outs_out_of_step_with_resets(tmp_path):
    """D4RL's AntMaze v0: the next observation jumps, and the flag stands elsewhere."""
    content = record("antmaze-umaze-v0", "modern", rows=240, limit=40)
    assert look(tmp_path, content, name=ANT.d4rl_file).ends.jumps_unflagged == 0
    content["timeouts"] = np.concatenate([[False], content["timeouts"][:-1]])
    content["observations"][:, 0] += np.repeat(np.arange(6) * 2.0, 40)  # starts apart, as in the diverse data
    found = look(tmp_path, content, name=ANT.d4rl_file)
    assert found.ends.jumps == found.ends.jumps_unflagged == 5
    assert found.ends.ends_without_jump == 5
    assert "out of step" in said(found)
    assert "5 of 5" in said(found)


def test_jumps_cannot_be_told_without_the_place(tmp_path, hopper):
    found = look(tmp_path, {key: value for key, value in hopper.items() if not key.startswith("infos")})
    assert found.ends.jumps is None


def test_rows_that_were_left_out_are_jumps(tmp_path, hopper):
    middle = int(np.flatnonzero(hopper["timeouts"])[0]) - 30
    found = look(tmp_path, {key: np.delete(value, slice(middle, middle + 12), axis=0) for key, value in hopper.items()})
    assert found.ends.jumps_unflagged == 1


def test_duplicates(tmp_path, hopper):
    content = {key: np.concatenate([value, value[40:90]]) for key, value in hopper.items()}
    found = look(tmp_path, content)
    assert found.duplicates == 50
    assert "50 (14.3%)" in said(found)
    negative_zero = np.array([[0.0, 1.0], [-0.0, 1.0], [0.0, 2.0]])
    assert statistics.duplicates(negative_zero, np.zeros((3, 1))) == 1


def test_columns_and_actions(tmp_path, hopper):
    content = copy(hopper)
    content["observations"][:, 4] = 0.25
    content["actions"][:, 1] = 1.0
    found = look(tmp_path, content)
    assert found.observations.constant == (4,)
    assert found.actions.constant == (1,)
    assert found.actions.at_bounds == pytest.approx(1 / 3, abs=0.01)
    assert "Observation dimension 4 never changes" in said(found)


def test_flags(tmp_path):
    content = record("hopper-medium-v2", "modern", limit=15)
    timeout = int(np.flatnonzero(content["timeouts"])[3])
    content["terminals"][timeout] = True
    content["timeouts"][timeout - 5] = True
    found = look(tmp_path, content)
    ends = found.ends
    assert ends.both == 1
    assert found.terminals == ends.terminals  # it is not D4RL's file
    assert "Terminals" not in said(found)
    assert ends.timeouts_elsewhere == 2  # the early one, and what it leaves of the other's trajectory
    ant = record("antmaze-umaze-v0", "modern", rows=60, limit=30)
    ant["terminals"][[3, 4, 5, 9]] = True
    found = look(tmp_path, ant, name=ANT.d4rl_file)
    assert not any("Terminals" in remark for remark in found.remarks)
    lost = check._remarks(replace(found, terminals=3), ANT, made=False)
    assert any("Terminals that no learner sees: 1 of 4" in remark for remark in lost)
    found = found.ends
    assert (found.terminals, found.terminal_runs, found.longest_run) == (4, 2, 3)


def test_without_flags_for_time_outs(tmp_path, hopper):
    content = copy(hopper)
    del content["timeouts"]
    found = look(tmp_path, content)
    assert not found.ends.timeouts_flagged
    assert "counting to the episode limit" in said(found)


def test_next_observations_of_the_file(tmp_path, hopper):
    after = np.roll(hopper["observations"], -1, axis=0)
    assert look(tmp_path, hopper | {"next_observations": after}).ends.stored_next_wrong == 0
    after[[7, 8]] += 1
    found = look(tmp_path, hopper | {"next_observations": after})
    assert found.ends.stored_next_wrong == 2
    assert "'next_observations'" in said(found)


def test_observations_beside_the_published_statistics(tmp_path, hopper):
    published = paper.observation_statistics()["hopper-medium-v2"]
    drawn = np.random.default_rng(0).normal(size=(300, 11))
    drawn = (drawn - drawn.mean(axis=0)) / drawn.std(axis=0) * published["std"] + published["mean"]
    content = hopper | {"observations": drawn.astype(np.float32)}
    found = look(tmp_path, content)
    assert max(max(d.mean_off, d.std_off) for d in found.published) < 0.001
    assert "not distributed" not in said(found)
    content["observations"][:, 6] += published["std"][6]
    found = look(tmp_path, content)
    assert found.published[0].dimension == 6
    assert found.published[0].mean_off == pytest.approx(1, abs=0.01)
    assert "1 of 11 observation dimensions" in said(found)


def test_what_is_said_of_altered_actions(tmp_path, hopper):
    content = copy(hopper)
    content["actions"][100:190] *= -0.5
    found = look(tmp_path, content, rows=1000)
    result = found.parity.results[0]
    assert result.beyond > 64
    words = said(found)
    assert f"{result.beyond} of {result.rows} replayed rows ({result.beyond / result.rows:.1%}) miss" in words
    assert "of the 64 that were examined, 64 miss it" in words
    assert "Rows were altered, or are out of order." in words
    assert "replayed rewards are not" in words
    assert "though the motion is" not in words
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["parity"]["results"][0]["missed"] == result.missed


def test_what_is_said_of_altered_rewards(tmp_path, hopper):
    content = copy(hopper)
    content["rewards"][100:190] += 0.5
    words = said(look(tmp_path, content, rows=1000))
    assert "though the motion is: rewards were altered" in words
    assert "miss the recorded step" not in words


# Mazes


def maze_walk(goal=(0.7, 8.6), radius=0.5, rows=4000) -> Recording:
    """Positions in the cell of the U-maze's goal, rewarded by the place after the action."""
    generator = np.random.default_rng(0)
    observations = np.zeros((rows, 29), np.float32)
    observations[:, :2] = generator.uniform((-1.9, 6.1), (3.0, 9.9), (rows, 2))
    inside = np.square(observations[:, :2] - goal).sum(axis=1) <= radius**2
    timeouts = np.zeros(rows, bool)
    timeouts[99::100] = True
    after = np.roll(inside, -1)
    return Recording(
        observations=observations,
        at=np.arange(rows),
        known=~timeouts,
        actions=np.zeros((rows, 8), np.float32),
        rewards=after.astype(np.float32),
        terminals=after,
        timeouts=timeouts,
        flagged=True,
        ends=timeouts,
        cuts=np.zeros(0, np.int64),
    )


def test_the_goal_that_rewards_imply():
    goal = layouts.implied_goal(maze_walk())
    assert (goal.x, goal.y, goal.radius) == pytest.approx((0.7, 8.6, 0.5), abs=0.03)
    assert goal.observation == "next"
    assert goal.explained > 0.999


def test_no_single_goal_explains_these_rewards():
    data = maze_walk()
    data.rewards[:] = np.random.default_rng(1).random(len(data)) < 0.3
    assert layouts.implied_goal(data) is None
    data.rewards[:] = 0
    assert layouts.implied_goal(data) is None


def maze_of(task):
    return envs.make(task, task.physics).unwrapped.maze


def test_coverage_of_a_maze():
    maze = maze_of(ANT)
    data = maze_walk()
    found = layouts.visits(maze, data)
    assert (found.cells, found.free_cells) == (2, 7)
    assert sum(found.share) == pytest.approx(1)
    assert found.reached == pytest.approx(np.mean([data.rewards[i : i + 100].any() for i in range(0, 4000, 100)]))
    assert found.in_walls == 0
    data.observations[:30, 0] = -4.0
    assert layouts.visits(maze, data).in_walls == 30


@pytest.mark.parametrize(
    "name", ["antmaze-umaze-v0", "antmaze-medium-play-v0", "antmaze-large-diverse-v0", "pointmaze-umaze"]
)
def test_layouts_of_all_mazes(name):
    maze = maze_of(get_task(name))
    assert len(maze.cells("S")) == len(maze.cells("G")) == 1
    assert len(maze.cells("#.SG")) == sum(map(len, maze.rows))
    assert all(maze.at(maze.centre(cell)) == cell for cell in maze.cells("#.SG"))


@pytest.mark.parametrize("goal", [None, (0.7, 8.6)])
def test_a_top_view_of_plain_arrays(goal):
    figure = Figure()
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    ways = [pictures.Way(np.array([[0.0, 0.0], [i / 100, 1.0], [2.0, 2.0]]), i % 2 == 0) for i in range(500)]
    pictures.top_view(axes, maze_of(ANT), ways, goal)
    out = io.BytesIO()
    figure.savefig(out)
    assert out.getvalue().startswith(PNG)
    assert "500 trajectories (200 drawn), 250 reach the goal" in axes.get_title()
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_a_top_view_of_nothing():
    pictures.top_view(Figure().subplots(), maze_of(ANT), [])


# Which data set is meant


def test_a_file_a_task_and_a_folder(tmp_path, hopper):
    path = write(tmp_path / "hopper_medium-v2.hdf5", hopper)
    other = write(tmp_path / "mine.hdf5", hopper)
    assert library.look_up(str(path), None, ()).task is HOPPER
    assert library.look_up(str(other), "hopper-medium-v2", ()).path == other
    assert library.look_up("hopper-medium-v2", None, [tmp_path]).path == path
    for named, task, words in (
        (str(other), None, "--task NAME"),
        ("hoper-medium-v2", None, "did you mean 'hopper-medium-v2'"),
        (str(tmp_path / "absent.hdf5"), None, "no such file"),
        (str(tmp_path), None, "without a data set"),
        ("walker2d-medium-v2", None, "is missing"),
        ("bandit-ring", None, "diffcps data collect bandit-ring"),
        ("bandit-normal-0.5", None, "diffcps data collect bandit-normal-0.5"),
        ("hopper-medium-v2", "walker2d-medium-v2", "leave out"),
    ):
        with pytest.raises(UserError, match=words):
            library.look_up(named, task, ())


def test_collected_sets(capsys):
    point, ring = get_task("pointmaze-umaze"), get_task("bandit-ring")
    path = collected.SOURCE.make(point, DataConfig("collected", 700, 0))
    assert library.look_up("pointmaze-umaze", None, ()).path == path
    found = check.examine(library.look_up(str(path), None, ()), ("d4rl", "modern"), 300).check
    assert (found.source, found.rows, found.transitions, found.refusal) == ("collected", 700, 700, None)
    assert found.parity.came_from == "modern"
    assert found.visits.free_cells == 7
    collected.SOURCE.make(ring, DataConfig("collected", 100, 0))
    found = check.examine(library.look_up("bandit-ring", None, ()), ("modern",), 300).check
    assert found.parity is None
    assert "not stepped" in found.no_parity
    assert found.remarks == ()
    newer = collected.SOURCE.make(ring, DataConfig("collected", 100, 1))
    os.utime(newer, (2e9, 2e9))
    two = library.look_up("bandit-ring", None, ())
    assert (two.path, [path.name for path in two.others]) == (newer, ["bandit-ring-collected-s0-100-v1"])
    assert command("pointmaze-umaze", "--rows", "200") == 0
    assert Path("checks/check-pointmaze-umaze-collected.png").read_bytes().startswith(PNG)


def test_an_imported_file(tmp_path, hopper):
    root = tmp_path / "home"  # where MINARI_DATASETS_PATH points
    path = write(tmp_path / "hopper_medium-v2.hdf5", hopper)
    imported, _ = imports.import_file(HOPPER, path, root)
    of_file = check.examine(library.look_up(str(path), None, ()), ("modern",), 1000).check
    for named in ("hopper-medium-v2", str(imported.path)):
        found = check.examine(library.look_up(named, None, ()), ("modern",), 1000).check
        assert found.source == "minari"
        assert found.checksum == of_file.checksum
        assert (found.rows, found.transitions, found.trajectories) == (300, of_file.transitions, of_file.trajectories)
        assert found.parity.states == "the observations"
        assert found.parity.came_from == "modern"
    with pytest.raises(UserError, match="leave out"):
        library.look_up(str(imported.path), "walker2d-medium-v2", ())


def test_a_minari_set_that_is_a_task(tmp_path):
    folder = minari_sets.hopper(tmp_path / "home")
    definition = minari_tasks.describe("mujoco/hopper/medium-v0").definition
    minari_tasks.register(definition)
    for named, task in ((definition.name, None), (str(folder), definition.name)):
        found = check.examine(library.look_up(named, task, ()), ("modern",), 1000)
        assert (found.check.source, found.check.task) == ("minari", definition.name)
        assert found.check.rows == found.check.transitions
        assert "not stepped" in found.check.no_parity
        assert pictures.draw(found).startswith(PNG)
    with pytest.raises(UserError, match="--task NAME"):
        library.look_up(str(folder), None, ())


def test_a_maze_of_minari_is_measured_as_it_is_learned(tmp_path):
    """Recorded as a continuing task it goes on at the goal; a learner's episode ends there, with a return of 1."""
    minari_sets.antmaze(tmp_path / "home")
    definition = minari_tasks.describe("D4RL/antmaze/umaze-v1").definition
    minari_tasks.register(definition)
    source = library.look_up(definition.name, None, ())
    found, learned = check.examine(source, ("modern",), 0).check, source.source.load(source.task, source.path)
    assert learned.info.returns.tolist() == [0.0, 1.0, 0.0]
    assert found.trajectories.returns.maximum == 1.0
    assert found.trajectories.returns.mean == pytest.approx(learned.info.returns.mean())
    assert found.trajectories.complete == learned.info.trajectories
    assert found.ends.terminals == learned.terminals.sum() == 3


# Data that cannot be learned from, and the command


def test_values_that_are_not_finite_are_counted_and_refused(tmp_path, hopper):
    content = copy(hopper)
    content["observations"][[3, 4], 2] = np.nan
    content["rewards"][9] = np.inf
    found = look(tmp_path, content, rows=100)
    assert "NaN or infinite" in found.refusal
    assert found.not_finite == {"observations": 2, "rewards": 1}
    assert found.trajectories.complete > 0
    assert found.trajectories.returns is None
    assert found.parity.came_from == "modern"
    assert found.transitions is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_actions_beyond_the_bounds(tmp_path, hopper):
    content = copy(hopper)
    content["actions"] *= 2
    found = look(tmp_path, content)
    assert "outside the bounds" in found.refusal
    assert found.actions.rows_outside > 200
    assert "beyond ±1" in said(found)


def test_the_command_writes_text_json_and_a_plot(tmp_path, hopper, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    path = write(tmp_path / "hopper_medium-v2.hdf5", hopper)
    assert command(path, "--out", tmp_path / "seen", "--rows", 100) == 0
    text = capsys.readouterr().out
    for part in ("Trajectories", "Ends", "Columns", "Arrays", "D4RL's published", "Replay", "Remarks"):
        assert part in text
    assert "recorded under modern physics" in " ".join(text.split())
    assert all(len(line) <= 80 for line in text.splitlines() if "/" not in line and "sha256" not in line)
    kept = tmp_path / "seen" / "check-hopper-medium-v2-d4rl"
    assert kept.with_suffix(".png").read_bytes().startswith(PNG)
    assert json.loads(kept.with_suffix(".json").read_text())["rows"] == 300


@pytest.mark.parametrize("damage", ["truncated", "page", "lacks", "nan"])
def test_data_that_cannot_be_learned_from_end_with_1(tmp_path, hopper, capsys, damage):
    content = copy(hopper)
    if damage == "lacks":
        del content["actions"]
    if damage == "nan":
        content["rewards"][5] = np.nan
    path = write(tmp_path / "hopper_medium-v2.hdf5", content)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:4000])
    if damage == "page":
        path.write_bytes(b"<html>not found</html>")
    assert command(path) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "No policy can be trained" in text
    assert {"truncated": "truncated", "page": "web page", "lacks": "lacks 'actions'", "nan": "NaN"}[damage] in text
    assert json.loads(Path("checks/check-hopper-medium-v2-d4rl.json").read_text())["refusal"]


@pytest.mark.parametrize(
    "arguments", [("absent.hdf5",), ("no-such-task",), ("hopper-medium-v2",), ("bandit-ring", "--rows", "-1")]
)
def test_mistakes_end_with_2(arguments, capsys):
    assert command(*arguments) == 2
    assert capsys.readouterr().err.startswith("error:")


def test_a_folder_that_cannot_be_written(tmp_path, hopper, capsys):
    (tmp_path / "taken").write_text("")
    assert command(write(tmp_path / "hopper_medium-v2.hdf5", hopper), "--out", "taken", "--rows", "0") == 2
    assert "--out taken" in capsys.readouterr().err


# Whatever a file holds

FUZZ = settings(
    max_examples=FUZZ_EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
DTYPES = ["f4", "f8", ">f8", "f2", "i1", "i8", "u1", "?", "S3", "c8", "V4"]
VALUES = [0, 1, -1, 10, 1e4, 1e9, 1e38, np.nan, np.inf, -np.inf, 0.5]


@st.composite
def mutated(draw, content):
    """A recording with some keys dropped, reshaped, of another type, or with odd values in some rows."""
    content = copy(content) | {"next_observations": np.array(content["observations"])}
    for key in draw(st.lists(st.sampled_from(sorted(content)), max_size=4, unique=True)):
        array = content[key]
        match draw(st.sampled_from(["drop", "type", "shape", "rows", "values", "values"])):
            case "drop":
                del content[key]
            case "type":
                dtype = np.dtype(draw(st.sampled_from(DTYPES)))
                content[key] = np.zeros(array.shape, dtype) if dtype.kind in "SV" else array.astype(dtype)
            case "shape":
                content[key] = draw(
                    st.sampled_from([array[..., None], array.reshape(-1), array[:, :1] if array.ndim > 1 else array])
                )
            case "rows":
                content[key] = array[: draw(st.integers(0, len(array)))]
            case "values":
                content[key] = array.astype(np.float64)
                rows = draw(st.lists(st.integers(0, len(array) - 1), max_size=40))
                content[key][rows] = draw(st.sampled_from(VALUES))
    return content


def outcome(path) -> tuple[str | None, int | None]:
    """Why the reader refuses a file, or how many transitions it gives."""
    try:
        return None, len(d4rl.load(HOPPER, path))
    except UserError as error:
        return str(error), None


@FUZZ
@given(data=st.data())
@pytest.mark.filterwarnings("error")
def test_fuzz_a_check_never_stumbles_and_refuses_what_the_reader_refuses(tmp_path, hopper, data):
    with np.errstate(all="ignore"):
        content = data.draw(mutated({key: value[:60] for key, value in hopper.items()}))
        path = write(tmp_path / "hopper_medium-v2.hdf5", content)
    source = library.look_up(str(path), None, ())
    examined = check.examine(source, ("modern",), 40)
    refusal, expected = outcome(path)
    assert examined.check.refusal == refusal
    assert examined.check.transitions == expected
    assert refusal is not None or examined.check.rows is not None
    json.dumps(examined.check.to_dict(), allow_nan=False)
    assert os.listdir(tmp_path) == ["hopper_medium-v2.hdf5"]


# What the reader of D4RL's files must refuse beside what tests/test_d4rl.py has


def rest(content, key):
    return {name: value for name, value in content.items() if name != key}


def refused(path) -> str:
    with pytest.raises(UserError) as caught:
        d4rl.load(HOPPER, path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_an_array_of_which_a_part_was_never_written(tmp_path, hopper):
    path = write(tmp_path / "f.hdf5", rest(hopper, "rewards"))
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", shape=(300,), dtype="f4", chunks=(100,))[:100] = hopper["rewards"][:100]
    assert "'rewards'" in refused(path)


def test_an_array_whose_parts_are_in_other_files(tmp_path, hopper):
    path = write(tmp_path / "f.hdf5", rest(hopper, "actions"))
    part = h5py.VirtualSource(str(tmp_path / "gone.hdf5"), "actions", shape=(300, 3))
    layout = h5py.VirtualLayout(shape=(300, 3), dtype="f4")
    layout[:] = part
    with h5py.File(path, "a") as file:
        file.create_virtual_dataset("actions", layout)
    assert "'actions'" in refused(path)


def test_an_array_that_lies_in_another_file(tmp_path, hopper):
    path = write(tmp_path / "f.hdf5", rest(hopper, "rewards"))
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", shape=(300,), dtype="f4", external=[("gone.raw", 0, 1200)])
    assert "'rewards'" in refused(path)


@pytest.mark.parametrize("link", [h5py.SoftLink("/nowhere"), h5py.ExternalLink("gone.hdf5", "/rewards")])
def test_links_that_lead_nowhere(tmp_path, hopper, link):
    path = write(tmp_path / "f.hdf5", rest(hopper, "rewards"))
    with h5py.File(path, "a") as file:
        file["rewards"] = link
    refused(path)
    found = check.examine(library.look_up(str(path), "hopper-medium-v2", ()), ("modern",), 10).check
    assert found.refusal is not None
    assert found.rows is None


def test_a_recording_of_no_use_is_none(tmp_path, hopper):
    assert recording.from_d4rl(HOPPER, write(tmp_path / "f.hdf5", rest(hopper, "rewards")))[0] is None
    found, _ = recording.from_d4rl(HOPPER, write(tmp_path / "g.hdf5", hopper | {"infos/qpos": np.zeros(7)}))
    assert found is not None
    assert found.qpos is None


def test_what_is_of_no_use_is_not_read(tmp_path, hopper):
    """Pictures of 10 TB: a file knows their shape, and has none of them."""
    path = write(tmp_path / "f.hdf5", rest(hopper, "observations"))
    with h5py.File(path, "a") as file:
        file.create_dataset("observations", (10**9, 84, 84, 3), "u1", chunks=(1, 84, 84, 3))
    assert recording.from_d4rl(HOPPER, path)[0] is None


@FUZZ
@given(data=st.data())
def test_fuzz_flipped_and_lost_bytes(tmp_path, hopper, data):
    path = write(tmp_path / "hopper_medium-v2.hdf5", {key: value[:60] for key, value in hopper.items()})
    content = bytearray(path.read_bytes())
    flips = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for position, value in data.draw(st.lists(flips, max_size=8)):
        content[position] = value
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path.write_bytes(content)
    found = check.examine(library.look_up(str(path), None, ()), ("modern",), 0).check
    refusal, expected = outcome(path)
    assert found.refusal == refusal
    assert found.transitions == expected
