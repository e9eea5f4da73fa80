"""D4RL files as Minari data sets: back without a bit of difference, nothing lost, and nothing half written."""

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffcps import cli, data
from diffcps import files as file_tools
from diffcps.config import DataConfig
from diffcps.data import d4rl, imports
from diffcps.data.minari_files import notes
from diffcps.data.provenance import KNOWN_SHA256
from diffcps.data.transitions import Rows, Transitions, limit_timeouts
from diffcps.errors import UserError
from diffcps.tasks.registry import Task, get_task

# Small enough for many examples. Nothing is published of the first; an environment exists for both.
ROBOT = replace(get_task("hopper-medium-v2"), name="small-v2", observation_size=2, action_size=1, episode_limit=4)
ANT = replace(get_task("antmaze-umaze-v0"), observation_size=2, action_size=1, episode_limit=5)
MINARI = DataConfig(source="minari")


@st.composite
def files(draw: st.DrawFn) -> tuple[Task, dict[str, np.ndarray]]:
    """A task and the arrays of a D4RL file of it, with whatever such files are known to have."""
    task = draw(st.sampled_from([ROBOT, ANT]))
    flags = draw(
        st.lists(st.tuples(st.booleans(), st.sampled_from([False, False, False, True])), min_size=2, max_size=30)
    )
    n = len(flags)
    precision = draw(st.sampled_from([np.float32, np.float64]))
    single = st.floats(-(2.0**100), 2.0**100, width=32 if precision == np.float32 else 64)
    odd = np.array(draw(st.lists(single, min_size=1, max_size=8)), dtype=precision)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    arrays = {
        "observations": rng.choice(np.concatenate([odd, rng.standard_normal(5).astype(precision)]), (n, 2)),
        "actions": rng.uniform(-1, 1, (n, 1)).astype(precision),
        "rewards": rng.standard_normal(n).astype(precision).reshape(draw(st.sampled_from([(n,), (n, 1)]))),
        "terminals": np.array([t for t, _ in flags]).astype(draw(st.sampled_from([bool, np.float32, np.uint8]))),
    }
    if draw(st.booleans()):
        arrays["timeouts"] = np.array([t for _, t in flags])
    if draw(st.booleans()):
        arrays["next_observations"] = arrays["observations"][::-1]
    return task, arrays


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file.create_dataset(key, data=array, compression="gzip")
        file["infos/qpos"] = np.arange(float(len(arrays["rewards"])))
        file["metadata/algorithm"] = "SAC"
        file["metadata/policy/fc0/weight"] = np.eye(3)
        file.attrs["note"] = "by hand"
    return path


def rows_of(arrays: dict[str, np.ndarray]) -> Rows:
    return Rows(
        observations=arrays["observations"],
        actions=arrays["actions"],
        rewards=arrays["rewards"].reshape(-1),
        terminals=arrays["terminals"].astype(bool),
        timeouts=arrays.get("timeouts"),
    )


def usual(n: int = 12) -> dict[str, np.ndarray]:
    """The arrays of a Hopper file: two terminals, a time-out, and a last trajectory that is cut."""
    rng = np.random.default_rng(0)
    terminals, timeouts = np.zeros(n, bool), np.zeros(n, bool)
    terminals[[2, 5]] = timeouts[8] = True
    return {
        "observations": rng.standard_normal((n, 11)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (n, 3)).astype(np.float32),
        "rewards": np.arange(n, dtype=np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
    }


def assert_same(ours: Transitions, theirs: Transitions) -> None:
    """Bit by bit, and all that is said of the data but where they are."""
    for field in fields(Transitions):
        if field.name != "info":
            mine, other = getattr(ours, field.name), getattr(theirs, field.name)
            assert (mine.dtype, mine.shape) == (other.dtype, other.shape), field.name
            assert mine.tobytes() == other.tobytes(), field.name
    said = {f.name: getattr(ours.info, f.name) for f in fields(ours.info)}
    for name, value in said.items():
        other = getattr(theirs.info, name)
        if name == "returns":
            assert value.tobytes() == other.tobytes()
        elif name not in ("source", "path"):
            assert value == other, name


def set_of(task: Task, file: Path, root: Path) -> Path:
    """The folder of the data set that the file is imported as."""
    path = imports.import_file(task, file, root)[0].path
    assert path is not None
    return path


def everything(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@given(files())
@settings(max_examples=300)
def test_rows_split_into_episodes_and_join_again(made: tuple[Task, dict[str, np.ndarray]]) -> None:
    task, arrays = made
    rows = rows_of(arrays)
    episodes, index = imports.split(task, rows)
    kept = Rows(**{f.name: None if (a := getattr(rows, f.name)) is None else a[index] for f in fields(rows)})
    if not episodes:
        return  # a file without a transition is refused before
    back = imports.join(episodes, kept, index)
    for field in fields(Rows):
        there, here = getattr(rows, field.name), getattr(back, field.name)
        assert (there is None) == (here is None)
        if there is not None:
            assert here.tobytes() == there.astype(here.dtype).tobytes(), field.name
    for episode in episodes:
        assert len(episode.rewards)
        # what anybody reads of the set is true: a step that does not terminate leads to its own next row
        ends = episode.terminations if task.terminals_end else np.zeros(len(episode.rewards), bool)
        assert not ends[:-1].any()


@given(files())
@settings(max_examples=40)
def test_an_imported_file_reads_like_the_file(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[Task, dict[str, np.ndarray]]
) -> None:
    task, arrays = made
    folder = tmp_path_factory.mktemp("import")
    path, root = write(folder / "file.hdf5", arrays), folder / "root"
    timeouts = arrays.get("timeouts", limit_timeouts(arrays["terminals"].astype(bool), task.episode_limit))
    if timeouts[:-1].all():
        with pytest.raises(UserError, match="hold no transition"):
            imports.import_file(task, path, root)
        assert not root.exists()
        return
    theirs = d4rl.load(task, path)
    imported, new = imports.import_file(task, path, root)
    assert new
    assert imported.path is not None
    assert_same(imports.load(task, imported.path), theirs)
    with h5py.File(imported.path / "data" / imports.LEFT_OVER) as file:
        assert file["file/metadata/algorithm"][()] == b"SAC"
        np.testing.assert_array_equal(file["file/infos/qpos"], np.arange(float(len(arrays["rewards"]))))
        assert ("next_observations" in file["file"]) == ("next_observations" in arrays)
        assert file["file"].attrs["note"] == "by hand"


def test_float64_is_not_rounded_in_the_set(tmp_path: Path) -> None:
    arrays = {
        key: value.astype(np.float64) + 1e-12 if value.dtype == np.float32 else value for key, value in usual().items()
    }
    arrays["actions"] *= 0.5
    path = set_of(get_task("hopper-medium-v2"), write(tmp_path / "x.hdf5", arrays), tmp_path)
    episode = minari.MinariDataset(path / "data")[0]
    np.testing.assert_array_equal(episode.observations, arrays["observations"][:4])
    np.testing.assert_array_equal(episode.actions, arrays["actions"][:3])
    assert episode.rewards.tolist() == arrays["rewards"][:3].tolist()


@pytest.mark.parametrize("kind", ["i8", ">i8", "u4", "g", "i2"])
def test_no_type_is_rounded(tmp_path: Path, kind: str) -> None:
    """Rewards that are wide integers stay so; what no episode can hold exactly is kept as the file has it."""
    exact, task = 2**24 + 1, get_task("hopper-medium-v2")
    arrays = usual() | {"rewards": np.full(12, exact if kind != "i2" else 7, kind)}
    arrays["observations"] = (arrays["observations"] * 100).astype(kind)
    arrays["observations"][0, 0] = exact if kind != "i2" else 7
    file = write(tmp_path / "x.hdf5", arrays)
    path = set_of(task, file, tmp_path)
    with h5py.File(path / "data" / imports.LEFT_OVER) as left_over:
        beside = {key: left_over["file"][key][...] for key in ("observations", "rewards") if key in left_over["file"]}
    episode = minari.MinariDataset(path / "data")[0]
    if kind == "i2":
        assert not beside, "float32 has all numbers of this type"
    else:
        assert beside["observations"].dtype == arrays["observations"].dtype
        assert beside["observations"].tobytes() == arrays["observations"].tobytes()
    if kind == "g":
        assert beside["rewards"].tobytes() == arrays["rewards"].tobytes()
    else:
        assert episode.rewards.tolist() == arrays["rewards"][:3].tolist()
    assert_same(imports.load(task, path), d4rl.load(task, file))


def test_what_minari_shows_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes as they were, an environment to recover, reference scores, and where it came from."""
    task, file = get_task("hopper-medium-v2"), write(tmp_path / "hopper_medium-v2.hdf5", usual())
    imports.import_file(task, file, tmp_path / "sets")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    assert list(minari.list_local_datasets()) == ["d4rl-import/hopper-medium-v2-v0"]
    dataset = minari.load_dataset("d4rl-import/hopper-medium-v2-v0")
    # the time-out's row and the last one are no steps
    assert [len(episode) for episode in dataset] == [3, 3, 2, 2]
    assert [bool(episode.terminations[-1]) for episode in dataset] == [True, True, False, False]
    assert [bool(episode.truncations[-1]) for episode in dataset] == [False, False, True, False]
    metadata = dataset.storage.metadata
    assert (metadata["ref_min_score"], metadata["ref_max_score"]) == (task.random_return, task.expert_return)
    own = notes(tmp_path / "sets" / "d4rl-import/hopper-medium-v2-v0")
    assert own["task"] == task.name
    assert own["file"]["name"] == file.name
    assert own["file"]["sha256"] == file_tools.sha256(file)
    assert own["file"]["columns"]["observations"] == "float32 (12, 11)"
    assert own["provenance"] == "other"
    assert "Not D4RL's data" in metadata["description"]
    environment = dataset.recover_environment()
    assert environment.observation_space.shape == (11,)
    assert environment.unwrapped.spec.kwargs["physics"] == "d4rl"
    environment.close()


def test_the_same_file_twice_changes_nothing(tmp_path: Path) -> None:
    task, file = get_task("hopper-medium-v2"), write(tmp_path / "a.hdf5", usual())
    first, new = imports.import_file(task, file, tmp_path / "sets")
    assert new
    before = everything(tmp_path / "sets")
    again, new = imports.import_file(task, file, tmp_path / "sets")
    assert not new
    assert again.path == first.path
    assert everything(tmp_path / "sets") == before
    other = write(tmp_path / "b.hdf5", usual() | {"rewards": np.ones(12)})
    with pytest.raises(UserError, match=r"hopper-medium-v2.*sha256"):
        imports.import_file(task, other, tmp_path / "sets")
    assert everything(tmp_path / "sets") == before


def test_a_file_whose_rest_is_damaged_is_refused(tmp_path: Path) -> None:
    """Also where the damage is in what no learner reads: nothing of the file would be lost without a word."""
    file = write(tmp_path / "x.hdf5", usual())
    with h5py.File(file, "a") as opened:
        opened["more"] = np.arange(5.0)
        head = h5py.h5o.get_info(opened["more"].id).addr
    content = bytearray(file.read_bytes())
    content[head : head + 8] = b"damage!!"
    file.write_bytes(content)
    with pytest.raises(UserError, match="'more'"):
        imports.import_file(get_task("hopper-medium-v2"), file, tmp_path / "sets")
    assert not (tmp_path / "sets").exists()


def test_links_that_lead_nowhere_are_left_out_and_noted(tmp_path: Path) -> None:
    """The reader does not mind them, and there is nothing that could be lost but where they should lead to."""
    task, file = get_task("hopper-medium-v2"), write(tmp_path / "x.hdf5", usual())
    with h5py.File(file, "a") as opened:
        opened["infos/gone"] = h5py.SoftLink("/nowhere")
        opened["gone"] = h5py.SoftLink("/nowhere")
        opened["far"] = h5py.ExternalLink("other.hdf5", "/there")
        opened["again"] = h5py.SoftLink("/infos/qpos")
    theirs = d4rl.load(task, file)
    path = set_of(task, file, tmp_path / "sets")
    assert_same(imports.load(task, path), theirs)
    with h5py.File(path / "data" / imports.LEFT_OVER) as left_over:
        assert sorted(left_over["file"]) == ["again", "infos", "metadata"]
    assert notes(path)["file"]["links_left_out"] == {"gone": "/nowhere", "far": "other.hdf5:/there"}
    described = minari.MinariDataset(path / "data").storage.metadata["description"]
    assert "The file's link 'gone' leads nowhere (/nowhere) and was left out." in described


FULL = """
import resource, sys
from diffcps import cli; from diffcps import envs
size, *words = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), resource.RLIM_INFINITY))
sys.argv[1:] = words
cli.main()
"""


@pytest.mark.parametrize("size", [3_000, 30_000])
def test_a_disk_error_leaves_no_half_set(tmp_path: Path, size: int) -> None:
    """No file may grow beyond some size, which for a writer is as a full disk. HDF5 does not outlive that unharmed."""
    file, sets = write(tmp_path / "hopper_medium-v2.hdf5", usual(300)), tmp_path / "sets"
    words = [sys.executable, "-c", FULL, size, "data", "import", file, "--root", sets]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "cannot be stored under" in done.stderr
    assert "free some space" in done.stderr
    assert list(sets.iterdir()) == [sets / "d4rl-import"]
    assert not list((sets / "d4rl-import").iterdir())


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    file = write(tmp_path / "x.hdf5", usual())
    with pytest.raises(UserError, match="cannot be stored under"):
        imports.import_file(get_task("hopper-medium-v2"), file, file)


def spoil(path: Path, what: str) -> None:
    """Damage the data set in the folder ``path``."""
    left_over, metadata = path / "data" / imports.LEFT_OVER, path / "data" / "metadata.json"
    values = json.loads(metadata.read_text())
    match what:
        case "no left over":
            left_over.unlink()
        case "cut left over":
            left_over.write_bytes(left_over.read_bytes()[:700])
        case "other left over":
            with h5py.File(left_over, "a") as file:
                file["rows/rewards"][0] += 1
        case "index missing":
            with h5py.File(left_over, "a") as file:
                del file["rows/index"]
        case "steps":
            with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
                file["episode_0/rewards"][0] += 1
        case "no metadata":
            metadata.unlink()
        case "broken metadata":
            metadata.write_text("{")
        case "other task":
            values["diffcps"]["task"] = "hopper-expert-v2"
            metadata.write_text(json.dumps(values))
        case "no notes":
            del values["diffcps"]
            metadata.write_text(json.dumps(values))
        case "no sha256":
            del values["diffcps"]["file"]["sha256"]
            metadata.write_text(json.dumps(values))


@pytest.mark.parametrize(
    "what",
    [
        "no left over", "cut left over", "other left over", "index missing", "steps", "no metadata", "broken metadata",
        "other task", "no notes", "no sha256",
    ],
)  # fmt: skip
def test_a_damaged_set_is_refused(tmp_path: Path, what: str) -> None:
    task, file = get_task("hopper-medium-v2"), write(tmp_path / "x.hdf5", usual())
    path = set_of(task, file, tmp_path)
    spoil(path, what)
    for use in (lambda: imports.load(task, path), lambda: imports.import_file(task, file, tmp_path)):
        with pytest.raises(UserError) as caught:
            use()
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hopper_medium_v2.hdf5", r"hopper_medium_v2\.hdf5: no task's D4RL file has that name; did you mean "),
        ("x", "--task NAME"),
    ],
)
def test_a_file_of_another_name_needs_its_task(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        d4rl.recognise(tmp_path / name)
    assert d4rl.recognise(tmp_path / name, "walker2d-medium-v2").name == "walker2d-medium-v2"
    with pytest.raises(UserError, match=r"--task 'walker-medium-v2'.*did you mean 'walker2d-medium-v2'"):
        d4rl.recognise(tmp_path / name, "walker-medium-v2")
    with pytest.raises(UserError, match="--task 'bandit-ring'"):
        d4rl.recognise(tmp_path / name, "bandit-ring")


def test_every_d4rl_file_is_recognised_by_its_name() -> None:
    assert d4rl.recognise(Path("a/walker2d_medium_replay-v2.hdf5")).name == "walker2d-medium-replay-v2"


def test_a_task_learns_from_its_imported_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From Minari's folder, from a folder that is named, and with the provenance of the file."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    task, file = get_task("hopper-medium-v2"), write(tmp_path / "hopper_medium-v2.hdf5", usual())
    said = data.missing([(task, MINARI)], [])
    assert said is not None
    assert "d4rl-import/hopper-medium-v2-v0" in said
    assert str(tmp_path / "minari") in said
    assert "diffcps data import hopper_medium-v2.hdf5" in said
    with pytest.raises(UserError, match=r"diffcps data import hopper_medium-v2\.hdf5"):
        data.load(task, MINARI, [])

    imports.import_file(task, file, tmp_path / "other")
    assert data.missing([(task, MINARI)], []) is not None
    assert data.missing([(task, MINARI)], [tmp_path / "other"]) is None
    monkeypatch.setitem(KNOWN_SHA256, "hopper_medium-v2.hdf5", file_tools.sha256(file))
    loaded = data.load(task, MINARI, [tmp_path / "other"])
    assert loaded.info.source == "minari"
    assert loaded.info.provenance == "verified"
    assert_same(loaded, data.load(task, DataConfig(source="d4rl"), [tmp_path]))
    assert "no data of source 'minari'" in str(data.missing([(get_task("bandit-ring"), MINARI)], []))


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.run(cli._Command, lambda command: command(), [str(a) for a in ("data", "import", *arguments)])  # type: ignore[arg-type]
    return int(ended.value.code or 0)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    file = write(tmp_path / "hopper_medium-v2.hdf5", usual())
    assert run(file) == 0
    said = capsys.readouterr().out
    assert "hopper_medium-v2.hdf5 imported as d4rl-import/hopper-medium-v2-v0" in said
    assert "12 rows, 3 complete trajectories" in said
    assert run(file) == 0
    assert "was already imported" in capsys.readouterr().out
    assert run(file, "--task", "hopper-expert-v2", "--root", tmp_path / "x") == 0
    assert (tmp_path / "x/d4rl-import/hopper-expert-v2-v0/data").is_dir()
    assert run(file, file, "--task", "hopper-medium-v2") == 2
    assert run() == 2
    # a name that is no task's stops it all before anything is written
    assert run(file, tmp_path / "nothing.hdf5", "--root", tmp_path / "y") == 2
    assert not (tmp_path / "y").exists()
    capsys.readouterr()
    for absent in ("walker2d_medium-v2.hdf5", "no-such-name"):
        assert run(tmp_path / absent) == 2
        assert "there is no such file" in capsys.readouterr().err
