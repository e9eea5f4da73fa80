"""The reader of D4RL's files: what it must accept, what it must refuse and how, and a fuzz of both."""

import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffcps import files
from diffcps.data import d4rl, provenance
from diffcps.data.transitions import ACTION_TOLERANCE, Transitions
from diffcps.errors import UserError
from diffcps.tasks import paper
from diffcps.tasks.registry import get_task

HOPPER = get_task("hopper-medium-v2")
ANT = get_task("antmaze-umaze-v0")
N = 40
FUZZ_EXAMPLES = int(os.environ.get("DIFFCPS_FUZZ_EXAMPLES", "200"))


def arrays(task=HOPPER, n=N):
    """The arrays of a well-formed file: two trajectories that end by terminal, one by time-out, a last one cut."""
    generator = np.random.default_rng(0)
    terminals, timeouts = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    terminals[[n // 4 - 1, n // 2 - 1]] = True
    timeouts[3 * n // 4 - 1] = True
    return {
        "observations": generator.normal(size=(n, task.observation_size)).astype(np.float32),
        "actions": generator.uniform(-1, 1, size=(n, task.action_size)).astype(np.float32),
        "rewards": generator.normal(size=n).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
    }


def write(path, content, **options):
    with h5py.File(path, "w") as file:
        for key, value in content.items():
            file.create_dataset(key, data=value, **(options if np.ndim(value) else {}))
    return path


def refusal(path, task=HOPPER) -> str:
    with pytest.raises(UserError) as caught:
        d4rl.load(task, path)
    text = str(caught.value)
    assert str(path) in text
    return text


def assert_as_plain(built: Transitions, content) -> None:
    """``built`` must hold what the builder makes of the plain arrays ``content``."""
    kept = np.flatnonzero(~content["timeouts"][:-1])
    np.testing.assert_array_equal(built.observations, content["observations"][kept])
    np.testing.assert_array_equal(built.next_observations, content["observations"][kept + 1])
    np.testing.assert_array_equal(built.actions, content["actions"][kept])
    np.testing.assert_array_equal(built.rewards, content["rewards"][kept])
    np.testing.assert_array_equal(built.terminals, content["terminals"][kept])


# What D4RL's files look like


def test_a_plain_file(tmp_path):
    path = write(tmp_path / "f.hdf5", arrays())
    built = d4rl.load(HOPPER, path)
    assert_as_plain(built, arrays())
    info = built.info
    assert (info.source, info.path, info.rows, info.trajectories, len(built)) == ("d4rl", path, N, 3, N - 2)
    assert info.checksum == files.sha256(path)
    assert len(info.checksum) == 64
    ends = [slice(0, 10), slice(10, 20), slice(20, 30)]
    np.testing.assert_allclose(info.returns, [arrays()["rewards"][rows].sum() for rows in ends], rtol=1e-6)


def test_scalars_groups_and_unknown_keys_are_left_alone(tmp_path):
    content = arrays() | {
        "metadata/algorithm": np.bytes_(b"SAC"),
        "metadata/iteration": 300,
        "metadata/policy/fc0/weight": np.zeros((256, 11)),
        "infos/qpos": np.full((N, 6), np.nan),
        "infos/action_log_probs": np.zeros(N - 3),
        "comment": "text",
    }
    assert_as_plain(d4rl.load(HOPPER, write(tmp_path / "f.hdf5", content)), arrays())


def test_the_files_own_next_observations_are_not_used(tmp_path):
    content = arrays() | {"next_observations": np.full((N, 11), 7.0)}
    assert_as_plain(d4rl.load(HOPPER, write(tmp_path / "f.hdf5", content)), arrays())


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ">f4", ">f8", np.longdouble])
def test_other_floats_become_float32(tmp_path, dtype):
    content = arrays()
    for key in ("observations", "actions", "rewards"):
        content[key] = content[key].astype(dtype)
    built = d4rl.load(HOPPER, write(tmp_path / "f.hdf5", content))
    assert_as_plain(built, {key: a if a.dtype == bool else a.astype(np.float32) for key, a in content.items()})
    assert built.observations.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int64, bool])
def test_flags_of_any_number_type(tmp_path, dtype):
    content = arrays()
    stored = content | {key: content[key].astype(dtype) for key in ("terminals", "timeouts")}
    assert_as_plain(d4rl.load(HOPPER, write(tmp_path / "f.hdf5", stored)), content)


def test_columns_of_shape_n_by_1(tmp_path):
    content = arrays()
    stored = content | {key: content[key][:, None] for key in ("rewards", "terminals", "timeouts")}
    assert_as_plain(d4rl.load(HOPPER, write(tmp_path / "f.hdf5", stored)), content)


def test_integer_rewards(tmp_path):
    content = arrays() | {"rewards": np.arange(N)}
    assert_as_plain(d4rl.load(HOPPER, write(tmp_path / "f.hdf5", content)), content)


def test_compressed_and_chunked(tmp_path):
    path = write(tmp_path / "f.hdf5", arrays(), compression="gzip", shuffle=True, chunks=True)
    assert_as_plain(d4rl.load(HOPPER, path), arrays())


def test_without_timeouts_the_episode_limit_counts(tmp_path):
    content = arrays(n=2500)
    del content["timeouts"]
    content["terminals"][:] = False
    built = d4rl.load(HOPPER, write(tmp_path / "f.hdf5", content))
    assert len(built) == 2499 - 2
    assert built.info.trajectories == 2
    np.testing.assert_array_equal(built.observations[999], content["observations"][1000])


def test_antmaze(tmp_path):
    content = arrays(ANT)
    goal = np.zeros(N, dtype=np.float32)
    goal[5:10] = goal[25:30] = 1
    content["rewards"], content["terminals"] = goal, goal
    content["timeouts"][:] = False
    content["timeouts"][[9, 19, 29, 39]] = True
    built = d4rl.load(ANT, write(tmp_path / "f.hdf5", content))
    assert len(built) == 38  # the terminals of data that are not D4RL's are kept at time-outs
    assert built.terminals.sum() == 10
    assert built.info.returns.tolist() == [1, 0, 1, 0]
    assert built.info.provenance == "other"
    assert "1,000,000" in built.info.provenance_note


def test_antmaze_of_the_right_size_is_unverified():
    verdict, note = provenance.judge(ANT, "0", np.broadcast_to(np.float32(0), (1_000_000, 29)))
    assert verdict == "unverified"
    assert note.startswith("Unverified: nothing is published")


def test_rounding_over_the_action_bound_is_accepted(tmp_path):
    content = arrays()
    content["actions"][3, 1] = np.nextafter(np.float32(1), np.float32(2))
    assert len(d4rl.load(HOPPER, write(tmp_path / "f.hdf5", content))) == N - 2


# What is refused


def test_no_such_file_and_a_folder(tmp_path):
    assert "no such file" in refusal(tmp_path / "absent.hdf5")
    assert "folder" in refusal(tmp_path)


def test_not_permitted(tmp_path, monkeypatch):
    path = write(tmp_path / "f.hdf5", arrays())

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in refusal(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\n <html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x1f\x8b\x08\x00rest", "gzip"),
        (b"PK\x03\x04rest", "zip"),
        (b"col1,col2\n1,2\n", "begins with b'col1,col"),
    ],
)
def test_not_hdf5(tmp_path, content, words):
    path = tmp_path / "f.hdf5"
    path.write_bytes(content)
    assert words in refusal(path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.999])
def test_truncated(tmp_path, share):
    path = write(tmp_path / "f.hdf5", arrays())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    text = refusal(path)
    assert "truncated" in text
    assert "again" in text


def test_damaged_compressed_block(tmp_path):
    path = write(tmp_path / "f.hdf5", arrays(n=2000), compression="gzip")
    with h5py.File(path) as file:
        chunk = file["observations"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 20 : chunk.byte_offset + 60] = bytes(40)
    path.write_bytes(content)
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("key", d4rl.REQUIRED)
def test_a_missing_key(tmp_path, key):
    content = arrays()
    del content[key]
    text = refusal(write(tmp_path / "f.hdf5", content))
    assert f"lacks '{key}'" in text
    assert all(f"'{other}'" in text for other in content)


def test_an_hdf5_file_of_nothing(tmp_path):
    assert "it has nothing" in refusal(write(tmp_path / "f.hdf5", {}))


@pytest.mark.parametrize("key", ["actions", "rewards", "terminals", "timeouts", "next_observations"])
def test_different_numbers_of_rows(tmp_path, key):
    content = arrays()
    content[key] = content.get(key, content["observations"])[:-3]
    text = refusal(write(tmp_path / "f.hdf5", content))
    assert f"'{key}' {N - 3}" in text
    assert f"'observations' {N}" in text


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("key", ["observations", "actions", "rewards"])
def test_values_that_are_not_finite(tmp_path, key, value):
    content = arrays()
    content[key][[11, 30]] = value
    text = refusal(write(tmp_path / "f.hdf5", content))
    assert f"'{key}'" in text
    assert f"2 of {N} rows" in text
    assert f"first {value} in row 11" in text


def test_values_that_float32_cannot_hold(tmp_path):
    content = arrays()
    content["observations"] = content["observations"].astype(np.float64)
    content["observations"][4, 2] = 1e300
    assert "first inf in row 4" in refusal(write(tmp_path / "f.hdf5", content))


@pytest.mark.parametrize("value", [0.5, 2.0, -1.0, np.nan])
@pytest.mark.parametrize("key", ["terminals", "timeouts"])
def test_flags_that_are_no_flags(tmp_path, key, value):
    content = arrays()
    content[key] = content[key].astype(np.float32)
    content[key][7] = value
    text = refusal(write(tmp_path / "f.hdf5", content))
    assert f"'{key}' must be 0 or 1" in text
    assert f"row 7 holds {value}" in text


def test_actions_outside_the_bounds(tmp_path):
    content = arrays()
    content["actions"][17, 2] = -30.0
    text = refusal(write(tmp_path / "f.hdf5", content))
    assert "30" in text
    assert "row 17" in text
    assert "±1" in text


def test_the_file_of_another_task(tmp_path):
    path = write(tmp_path / "f.hdf5", arrays(get_task("walker2d-medium-v2")))
    text = refusal(path)
    assert "'observations'" in text
    assert "(40, 17)" in text
    assert "11" in text


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("observations", (N,)),
        ("actions", (N, 3, 1)),
        ("rewards", (N, 2)),
        ("terminals", (N, 1, 1)),
        ("timeouts", (N, 3)),
    ],
)
def test_wrong_shapes(tmp_path, key, shape):
    text = refusal(write(tmp_path / "f.hdf5", arrays() | {key: np.zeros(shape, dtype=np.float32)}))
    assert f"'{key}' has shape {shape}" in text


def test_no_rows(tmp_path):
    content = {key: array[:0] for key, array in arrays().items()}
    assert "'observations' is empty" in refusal(write(tmp_path / "f.hdf5", content))


def test_one_row(tmp_path):
    content = {key: array[:1] for key, array in arrays().items()}
    assert "no transition" in refusal(write(tmp_path / "f.hdf5", content))


def test_an_array_that_was_declared_but_never_written(tmp_path):
    path = write(tmp_path / "f.hdf5", {key: a for key, a in arrays().items() if key != "rewards"})
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", shape=(N,), dtype=np.float32)
    assert "'rewards' was declared" in refusal(path)


@pytest.mark.parametrize(
    "value",
    [
        np.array([b"1.0"] * N),
        np.array(["1.0"] * N, dtype=h5py.string_dtype()),
        np.zeros(N, dtype=[("x", np.float32), ("y", np.float32)]),
        np.zeros(N, dtype=np.complex64),
        np.zeros(N, dtype="V8"),
    ],
    ids=["bytes", "strings", "compound", "complex", "opaque"],
)
def test_values_that_are_no_numbers(tmp_path, value):
    text = refusal(write(tmp_path / "f.hdf5", arrays() | {"rewards": value}))
    assert "'rewards' holds" in text
    assert "numbers" in text


def test_groups_scalars_and_broken_links_where_arrays_are_needed(tmp_path):
    rest = {key: array for key, array in arrays().items() if key != "rewards"}
    assert "'rewards' is a group" in refusal(write(tmp_path / "group.hdf5", rest | {"rewards/data": np.zeros(N)}))
    assert "'rewards' is a single value" in refusal(write(tmp_path / "scalar.hdf5", rest | {"rewards": 1.0}))
    null = write(tmp_path / "null.hdf5", rest)
    with h5py.File(null, "a") as file:
        file["rewards"] = h5py.Empty(np.float32)
    assert "'rewards' is a single value" in refusal(null)
    broken = write(tmp_path / "broken.hdf5", rest)
    with h5py.File(broken, "a") as file:
        file["rewards"] = h5py.SoftLink("/nowhere")
    assert "damaged" in refusal(broken)


# Provenance


def published_like(task, n, seed=0):
    """[n, o] observations with exactly the published mean and standard deviation."""
    statistics = paper.observation_statistics()[task.name]
    x = np.random.default_rng(seed).normal(size=(n, task.observation_size))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    return (x * statistics["std"] + statistics["mean"]).astype(np.float32)


def test_provenance_by_sha256():
    known = provenance.KNOWN_SHA256["hopper_medium-v2.hdf5"]
    anything = np.zeros((10, 11), dtype=np.float32)
    verdict, note = provenance.judge(HOPPER, known, anything)
    assert verdict == "verified"
    assert "sha256" in note
    # the sha256 of one task's file says nothing about another task
    assert provenance.judge(get_task("hopper-medium-replay-v2"), known, anything)[0] == "other"


def test_provenance_by_statistics():
    task = replace(HOPPER, rows=100_000)
    own = published_like(task, 100_000)
    verdict, note = provenance.judge(task, "0" * 64, own)
    assert verdict == "verified"
    assert "11 observation dimensions" in note

    for change in (0.05, -0.05):
        moved = own.copy()
        moved[:, 4] += np.float32(change * own[:, 4].std())
        verdict, note = provenance.judge(task, "0" * 64, moved)
        assert verdict == "other"
        assert "dimension 4" in note
        spread = own.copy()
        spread[:, 4] *= np.float32(1 + change)
        verdict, note = provenance.judge(task, "0" * 64, spread)
        assert verdict == "other"
        assert "dimension 4" in note

    verdict, note = provenance.judge(task, "0" * 64, published_like(HOPPER, 60_000))
    assert verdict == "other"
    assert "Not the whole" in note
    assert "60,000 rows" in note


def test_the_tolerance_covers_how_the_published_statistics_were_rounded():
    """medium-expert is medium and expert joined, so its published statistics follow from theirs."""
    published = {k: {s: np.array(x) for s, x in v.items()} for k, v in paper.observation_statistics().items()}
    for name in ("hopper", "halfcheetah", "walker2d"):
        medium, expert, both = (published[f"{name}-{part}-v2"] for part in ("medium", "expert", "medium-expert"))
        mean = (medium["mean"] + expert["mean"]) / 2
        second = sum(part["std"] ** 2 + part["mean"] ** 2 for part in (medium, expert)) / 2
        assert np.abs((mean - both["mean"]) / both["std"]).max() < provenance.TOLERANCE / 2
        assert np.abs(np.sqrt(second - mean**2) / both["std"] - 1).max() < provenance.TOLERANCE / 2
        # and tell apart what is different
        assert np.abs((medium["mean"] - both["mean"]) / both["std"]).max() > 5 * provenance.TOLERANCE


def test_row_counts():
    assert HOPPER.rows == ANT.rows == 1_000_000
    assert get_task("walker2d-medium-replay-v2").rows == 302_000
    assert get_task("halfcheetah-medium-expert-v2").rows == 2_000_000


# Fuzz: only a UserError or valid transitions may come out


def assert_valid(built: Transitions) -> None:
    n = len(built)
    assert n >= 1
    assert built.observations.shape == built.next_observations.shape == (n, 11)
    assert built.actions.shape == (n, 3)
    assert built.rewards.shape == built.terminals.shape == (n,)
    for array in (built.observations, built.actions, built.rewards, built.next_observations, built.terminals):
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
    assert np.abs(built.actions).max() <= 1 + ACTION_TOLERANCE
    assert set(np.unique(built.terminals)) <= {0, 1}


def load_or_refuse(path) -> None:
    try:
        built = d4rl.load(HOPPER, path)
    except UserError as error:
        if str(path) not in str(error):
            raise AssertionError("the file is not named") from error
    else:
        assert_valid(built)


FUZZ = settings(
    max_examples=FUZZ_EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
DTYPES = ["f4", "f8", ">f8", "f2", "i1", "i8", "u1", "?", "S3", "c8", "V4", "i4,f8", "(2,)f4"]


@st.composite
def mutated_contents(draw):
    """A well-formed file with up to three of its keys dropped or replaced by an array of any shape and type."""
    content = dict(arrays(n=12))
    content["terminals"] = content["terminals"].copy()
    content["next_observations"] = content["observations"]
    for key in draw(st.lists(st.sampled_from(sorted(content)), max_size=3, unique=True)):
        if draw(st.booleans()) and draw(st.booleans()):
            del content[key]
            continue
        shapes = [content[key].shape, (12,), (12, 1), (12, 11), (12, 3), (0,), (), (11, 3), (2, 3, 4)]
        shape = draw(st.sampled_from(shapes))
        dtype = np.dtype(draw(st.sampled_from(DTYPES)))
        noise = np.frombuffer(draw(st.binary(min_size=16, max_size=16)), dtype=np.uint8)
        size = int(np.prod(shape)) * dtype.itemsize
        raw = np.resize(noise if draw(st.booleans()) else np.zeros(16, np.uint8), size)
        base = dtype.base if dtype.subdtype else dtype
        content[key] = np.frombuffer(raw.tobytes(), dtype=base)[: int(np.prod(shape))].reshape(shape)
    return content


@FUZZ
@given(content=mutated_contents(), compressed=st.booleans())
def test_fuzz_shapes_types_and_missing_keys(tmp_path, content, compressed):
    load_or_refuse(write(tmp_path / "f.hdf5", content, **({"compression": "gzip"} if compressed else {})))


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    plain = write(folder / "plain.hdf5", arrays(n=60))
    packed = write(folder / "packed.hdf5", arrays(n=60), compression="gzip", chunks=True)
    return [plain.read_bytes(), packed.read_bytes()]


@FUZZ
@given(data=st.data())
def test_fuzz_flipped_and_lost_bytes(tmp_path, whole_files, data):
    content = bytearray(data.draw(st.sampled_from(whole_files)))
    flips = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for position, value in data.draw(st.lists(flips, max_size=8)):
        content[position] = value
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path = tmp_path / "f.hdf5"
    path.write_bytes(content)
    load_or_refuse(path)
