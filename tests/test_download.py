"""Downloads from a server on this machine that misbehaves as asked, from folders and from S3; two processes at once."""

import hashlib
import itertools
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path

import h5py
import numpy as np
import pytest
import stores
from rich.console import Console
from waits import GUARD

from diffcps.cli.data.getting import DownloadData, ProgressDisplay
from diffcps.cli.data.listing import ListData
from diffcps.config import home
from diffcps.data import collected, d4rl, download, mirrors, partial_file, provenance
from diffcps.data.mirrors import Patience
from diffcps.data.partial_file import Partial
from diffcps.errors import UserError
from diffcps.storage.remote import Remote
from diffcps.tasks.registry import TASKS, get_task

# tasks whose files have no published sha256
HOPPER, REPLAY = get_task("hopper-medium-expert-v2"), get_task("hopper-medium-replay-v2")
WALKER, ANT = get_task("walker2d-medium-v2"), get_task("antmaze-umaze-v0")
QUICK = Patience(connect=GUARD, stall=2.0, attempts=3, pause=0.01)
ONCE = Patience(connect=GUARD, stall=GUARD, attempts=1)
BRIEF = replace(ONCE, stall=1.0)
HTML = b"<!DOCTYPE html><html>Sign in to go on</html>"


@pytest.fixture(autouse=True)
def quiet_machine(tmp_path_factory, monkeypatch):
    """A home of its own, no proxies, and a public server that refuses connections."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DIFFCPS_HOME", str(home / "diffcps"))
    monkeypatch.setenv("NO_PROXY", "*")
    for name in ("DIFFCPS_DATA", mirrors.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(mirrors, "PUBLIC_HOME", "http://127.0.0.1:9/closed")


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    """A file of Hopper in D4RL's layout, of several blocks."""
    return hdf5(tmp_path_factory.mktemp("made") / "a.hdf5", seed=0)


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """Files of all tasks of the paper, by name."""
    folder = tmp_path_factory.mktemp("made")
    tasks = [task for task in TASKS.values() if task.in_paper]
    return {task.d4rl_file: hdf5(folder / task.d4rl_file, seed=0, task=task) for task in tasks}


def half(length: int) -> int:
    """About half, in whole blocks: of a block that is cut nothing is kept."""
    return length // 2 // mirrors.BLOCK * mirrors.BLOCK


def hdf5(path: Path, seed: int, task=HOPPER) -> bytes:
    rows = 10_000 * HOPPER.observation_size // task.observation_size  # of about the same size for every task
    with h5py.File(path, "w") as file:
        file["observations"] = np.random.default_rng(seed).normal(size=(rows, task.observation_size)).astype(np.float32)
        file["actions"] = np.zeros((rows, task.action_size), dtype=np.float32)
        file["rewards"] = np.zeros(rows, dtype=np.float32)
        file["terminals"] = np.zeros(rows, dtype=bool)
    return path.read_bytes()


def part_of(folder: Path, address: str) -> Path:
    """Where the beginning is kept that has come of Hopper's file from a server or folder."""
    return Partial(folder / HOPPER.d4rl_file, f"{address}/gym_mujoco_v2/{HOPPER.d4rl_file}").path


class Server:
    """Serves ``files``; ``plan`` says what it does to the next requests: a name of a mischief each, then nothing."""

    def __init__(self, files, plan=()):
        self.files, self.plan, self.asked = dict(files), iter(plan), []
        self.sent = 0
        self.tag, self.hold = '"one"', threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=lambda: self._server.serve_forever(0.01), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request):
        mischief = next(self.plan, "")
        span = request.headers.get("Range")
        self.asked.append((request.path, span, mischief))
        body = self.files.get(request.path.rpartition("/")[2])
        if mischief.isdigit():
            request.send_error(int(mischief))
            return
        if mischief == "html":
            body, span = HTML, None
        if body is None:
            request.send_error(404)
            return
        start = 0
        if mischief == "change":
            self.tag = f'"{len(self.asked)}"'
        fresh = request.headers.get("If-Range") == self.tag
        if span and (fresh or mischief == "no If-Range") and mischief != "ignore Range":
            start = int(re.fullmatch(r"bytes=(\d+)-", span)[1])
            if start >= len(body) or mischief == "416":
                request.send_error(416)
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            request.send_response(200)
        part = body[start:]
        announced = len(part) + {"too long": 1000, "too short": -1000, "huge": 10**18}.get(mischief, 0)
        if mischief != "no length":
            request.send_header("Content-Length", str(announced))
        if mischief == "encoded":
            request.send_header("Content-Encoding", "br")
        if mischief not in ("no validator", "cut, no validator"):
            request.send_header("ETag", self.tag)
        request.end_headers()
        if mischief.startswith("cut") or mischief in ("stall", "wait", "change"):
            part = part[: half(len(part))]
        self.sent += len(part)
        request.wfile.write(part)
        request.wfile.flush()
        if mischief in ("stall", "wait"):
            self.hold.wait(GUARD)
        request.close_connection = True


class Notes:
    """A watcher that remembers."""

    def __init__(self):
        self.lines, self.most, self.at_progress = [], {}, lambda have: None

    def progress(self, task, have, total):
        self.most[task] = have
        self.at_progress(have)

    def say(self, task, text):
        self.lines.append(text)

    def ended(self, task, outcome):
        self.lines.append(outcome.state)


def fetch(folder, *mirrors_, tasks=(HOPPER,), notes=None, **more):
    more = {"patience": QUICK, **more}
    return download.download(tasks, folder, mirrors_, notes or Notes(), **more)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".hdf5"))


def test_a_plain_download_leaves_the_file_alone_and_its_sum_remembered(tmp_path, content):
    notes = Notes()
    with Server({HOPPER.d4rl_file: content}) as server:
        [outcome] = fetch(tmp_path / "new/to", server.url, notes=notes)
        assert outcome.state == "downloaded"
        assert outcome.path.read_bytes() == content
        assert [path for path, _, _ in server.asked] == ["/gym_mujoco_v2/hopper_medium_expert-v2.hdf5"]
        assert notes.most == {HOPPER.name: len(content)}
        assert os.listdir(tmp_path / "new/to") == [HOPPER.d4rl_file]
        assert provenance.known_sha256(outcome.path) == hashlib.sha256(content).hexdigest()
        [again] = fetch(tmp_path / "new/to", server.url)
        assert again.state == "already here"
        assert len(server.asked) == 1
    [elsewhere] = fetch(tmp_path / "other", elsewhere=[tmp_path / "new/to"])
    assert (elsewhere.state, elsewhere.path) == ("already here", outcome.path)
    assert not (tmp_path / "other").exists()


def test_a_file_that_is_here_and_broken_is_not_touched(tmp_path, content):
    (tmp_path / HOPPER.d4rl_file).write_bytes(HTML)
    with Server({HOPPER.d4rl_file: content}) as server:
        [outcome] = fetch(tmp_path, server.url)
    assert outcome.state == "failed"
    assert "web page" in outcome.reason
    assert "move or delete it" in outcome.reason
    assert (tmp_path / HOPPER.d4rl_file).read_bytes() == HTML
    assert server.asked == []


@pytest.mark.parametrize(
    ("plan", "spans"),
    [
        (["404"], [None, None]),
        (["503", "429"], [None, None, None]),
        (["cut"], [None, "half"]),
        (["stall"], [None, "half"]),
        (["cut", "ignore Range"], [None, "half"]),
        (["cut", "cut"], [None, "half", "three quarters"]),
        (["cut", "416"], [None, "half", None]),
        (["cut, no validator"], [None, None]),
        (["change", "change"], [None, "half", "half"]),
        (["cut, no validator", "cut"], [None, None, "half"]),
        (["no length"], [None]),
    ],
)
def test_what_trying_again_mends(tmp_path, content, plan, spans):
    first = half(len(content))
    bytes_ = {"half": first, "three quarters": first + half(len(content) - first)}
    with Server({HOPPER.d4rl_file: content}, plan) as server:
        [outcome] = fetch(tmp_path, server.url)
        assert [span for _, span, _ in server.asked] == [f"bytes={bytes_[s]}-" if s else None for s in spans]
    assert outcome.state == "downloaded"
    assert outcome.path.read_bytes() == content
    assert leftovers(tmp_path) == []


def test_a_file_that_changes_in_between_is_started_over_even_where_if_range_is_ignored(tmp_path, content):
    other = hdf5(tmp_path / "b", seed=1)
    assert len(other) == len(content)
    with Server({HOPPER.d4rl_file: content}, ["cut", "no If-Range"]) as server:
        notes = Notes()

        def swap(have):
            server.files, server.tag = {HOPPER.d4rl_file: other}, '"two"'

        notes.at_progress = swap
        [outcome] = fetch(tmp_path, server.url, notes=notes)
        assert [bool(span) for _, span, _ in server.asked] == [False, True, False]
    assert outcome.path.read_bytes() == other


@pytest.mark.parametrize(
    ("mischief", "asked", "words"),
    [
        ("404", 2, "404 Not Found"),
        ("403", 2, "403 Forbidden"),
        ("503", 3, "503 Service Unavailable"),
        ("html", 2, "web page"),
        ("encoded", 2, "compressed"),
        ("too short", 1, "truncated"),
        ("too long", 3, "connection broke"),
        ("stall", 1, "no bytes for 1 s"),
        ("cut, no validator", 3, "connection broke"),
    ],
)
def test_what_it_does_not_mend_is_named_and_the_next_mirror_asked(tmp_path, content, mischief, asked, words):
    patience = BRIEF if mischief == "stall" else QUICK
    with (
        Server({HOPPER.d4rl_file: content}, itertools.repeat(mischief)) as bad,
        Server({HOPPER.d4rl_file: content}) as good,
    ):
        [outcome] = fetch(tmp_path, bad.url, good.url, patience=patience)
    assert outcome.state == "downloaded"
    assert outcome.path.read_bytes() == content
    assert all(address.startswith(bad.url) for address, _ in outcome.tried)
    assert words in outcome.tried[0][1]
    assert len(bad.asked) == asked
    assert len(good.asked) == 1
    assert leftovers(tmp_path) == []


def test_nothing_is_left_that_looks_complete_and_other_files_come(tmp_path, contents):
    with Server(
        {name: contents[name] for name in (HOPPER.d4rl_file, ANT.d4rl_file)} | {WALKER.d4rl_file: HTML}
    ) as server:
        outcomes = fetch(tmp_path, server.url, tasks=[HOPPER, WALKER, REPLAY, ANT], jobs=2)
    assert [outcome.state for outcome in outcomes] == ["downloaded", "failed", "failed", "downloaded"]
    assert sorted(os.listdir(tmp_path)) == sorted([HOPPER.d4rl_file, ANT.d4rl_file])
    assert [len(outcome.tried) for outcome in outcomes] == [0, 2, 2, 0]
    assert f"/ant_maze_new/{ANT.d4rl_file}" in [path for path, _, _ in server.asked]


def test_an_error_page_does_not_cost_what_another_mirror_gave(tmp_path, content):
    with Server({HOPPER.d4rl_file: content}, itertools.repeat("cut")) as cut, Server({}, ["html", "html"]) as page:
        [outcome] = fetch(tmp_path, cut.url, page.url, patience=ONCE)
        assert outcome.state == "failed"
        part = part_of(tmp_path, cut.url)
        have = part.stat().st_size
        assert have == half(len(content))
        cut.plan = iter([])
        [outcome] = fetch(tmp_path, cut.url, page.url)
        assert cut.asked[-1][1] == f"bytes={have}-"
    assert outcome.path.read_bytes() == content
    assert leftovers(tmp_path) == []


def test_a_mirror_that_breaks_off_does_not_cost_what_another_gave(tmp_path, content):
    with Server({HOPPER.d4rl_file: content}, ["cut"]) as first, Server({HOPPER.d4rl_file: content}, ["cut"]) as broken:
        fetch(tmp_path, first.url, patience=ONCE)
        have = part_of(tmp_path, first.url).stat().st_size
        [outcome] = fetch(tmp_path, broken.url, first.url, patience=ONCE)
        assert [address.startswith(broken.url) for address, _ in outcome.tried] == [True]
        assert first.asked[-1][1] == f"bytes={have}-"
        assert first.sent == len(content)
    assert outcome.path.read_bytes() == content
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("room", [False, True])
def test_what_other_addresses_gave_makes_room_only_where_there_is_no_other(tmp_path, content, monkeypatch, room):
    with Server({HOPPER.d4rl_file: content}, ["cut"]) as first, Server({HOPPER.d4rl_file: content}, ["cut"]) as second:
        fetch(tmp_path, first.url, patience=ONCE)
        real = partial_file.shutil.disk_usage(tmp_path)
        free = len(content) if room else len(content) - 1000
        monkeypatch.setattr(partial_file.shutil, "disk_usage", lambda path: real._replace(free=free))
        [outcome] = fetch(tmp_path, second.url, patience=ONCE)
        assert outcome.reason is None
        assert part_of(tmp_path, first.url).exists() == room
        assert part_of(tmp_path, second.url).exists()


def test_a_part_from_one_address_is_not_continued_from_another(tmp_path, content):
    other = hdf5(tmp_path / "b", seed=1)
    with Server({HOPPER.d4rl_file: content}, ["cut"]) as first, Server({HOPPER.d4rl_file: other}) as second:
        [outcome] = fetch(tmp_path, first.url, second.url, patience=ONCE)
        assert second.asked[0][1] is None
    assert outcome.path.read_bytes() == other


def spoilt(path: Path, what: str) -> bytes:
    hdf5(path, seed=0)
    with h5py.File(path, "a") as file:
        match what:
            case "no rewards" | "no actions":
                del file[what.removeprefix("no ")]
            case "observations" | "actions":
                del file[what]
                file[what] = np.zeros((10_000, 17), np.float32)
            case "nothing":
                file.clear()
    return path.read_bytes()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("no rewards", "it lacks 'rewards'"),
        ("no actions", "it lacks 'actions'"),
        ("observations", "'observations' has shape (10000, 17), but hopper-medium-expert-v2 needs (rows, 11)"),
        ("actions", "'actions' has shape (10000, 17)"),
        ("nothing", "it has nothing"),
    ],
)
def test_a_file_that_the_task_cannot_read_is_the_wrong_file(tmp_path, content, what, words):
    other = spoilt(tmp_path / "b", what)
    with Server({HOPPER.d4rl_file: other}) as bad, Server({HOPPER.d4rl_file: content}) as good:
        [outcome] = fetch(tmp_path / "to", bad.url, good.url)
        assert words in outcome.tried[0][1]
        assert outcome.state == "downloaded"
        assert outcome.path.read_bytes() == content
        assert len(bad.asked) == 1
        outcome.path.write_bytes(other)
        [outcome] = fetch(tmp_path / "to", good.url)
    assert outcome.state == "failed"
    assert words in outcome.reason
    assert leftovers(tmp_path / "to") == []


def test_the_published_sum_decides(tmp_path, content):
    digest = hashlib.sha256(content).hexdigest()
    other, published = hdf5(tmp_path / "b", seed=1), {HOPPER.d4rl_file: digest}
    with Server({HOPPER.d4rl_file: other}) as bad, Server({HOPPER.d4rl_file: content}) as good:
        [outcome] = fetch(tmp_path / "only", bad.url, published=published)
        assert outcome.state == "failed"
        assert digest in outcome.tried[0][1]
        assert hashlib.sha256(other).hexdigest() in outcome.tried[0][1]
        assert os.listdir(tmp_path / "only") == []
        [outcome] = fetch(tmp_path / "both", bad.url, good.url, published=published)
    assert outcome.path.read_bytes() == content
    assert provenance.checksum_state(outcome.path, published) == "verified"


def test_a_damaged_partial_file_is_downloaded_again_when_the_published_sum_tells(tmp_path, content):
    published = {HOPPER.d4rl_file: hashlib.sha256(content).hexdigest()}
    with Server({HOPPER.d4rl_file: content}, ["cut"]) as server:
        fetch(tmp_path, server.url, patience=ONCE)
        part = part_of(tmp_path, server.url)
        part.write_bytes(bytes(part.stat().st_size))
        [outcome] = fetch(tmp_path, server.url, published=published)
    assert outcome.path.read_bytes() == content


@pytest.mark.parametrize("note", ["", "{", "[]", '{"address": 3}', '{"total": "many"}'])
def test_a_part_without_a_good_note_is_started_over(tmp_path, content, note):
    with Server({HOPPER.d4rl_file: content}) as server:
        part = part_of(tmp_path, server.url)
        part.write_bytes(b"x" * 1000)
        if note:
            part.with_name(f"{part.name}.json").write_text(note)
        [outcome] = fetch(tmp_path, server.url)
        assert server.asked[0][1] is None
    assert outcome.path.read_bytes() == content
    assert leftovers(tmp_path) == []


def test_an_interrupt_keeps_what_has_come_and_the_next_run_asks_for_the_rest(tmp_path, content):
    def interrupt(have):
        if have == half(len(content)):
            os.kill(os.getpid(), signal.SIGINT)

    with Server({HOPPER.d4rl_file: content}, ["wait"]) as server:
        notes = Notes()
        notes.at_progress = interrupt
        with pytest.raises(KeyboardInterrupt):
            fetch(tmp_path, server.url, notes=notes, patience=Patience(stall=GUARD, farewell=0.05))
        assert server.sent == half(len(content)), "nobody waited for the rest"
        assert not (tmp_path / HOPPER.d4rl_file).exists()
        server.hold.set()  # the thread left behind now finds that the run has ended
        [outcome] = fetch(tmp_path, server.url)
        assert server.asked[1][1] == f"bytes={half(len(content))}-"
        assert server.sent == len(content)
    assert outcome.path.read_bytes() == content


def test_ctrl_c_in_a_terminal(tmp_path, content):
    with Server({HOPPER.d4rl_file: content}, ["wait"]) as server:
        arguments = ["-m", "diffcps", "data", "download", HOPPER.name, "--mirror", server.url, "--to", str(tmp_path)]
        process = subprocess.Popen([sys.executable, *arguments], stderr=subprocess.PIPE, text=True)
        part = part_of(tmp_path, server.url)
        while not (part.exists() and part.stat().st_size):
            time.sleep(0.02)
            assert process.poll() is None
        process.send_signal(2)
        _, error = process.communicate(timeout=GUARD)
        assert process.returncode == 130
        assert "Run the same command again" in error
        assert "Traceback" not in error
        have = part.stat().st_size  # as much as had come when the signal did: one block, or more
        assert 0 < have <= half(len(content))
        [outcome] = fetch(tmp_path, server.url)
        assert server.asked[1][1] == f"bytes={have}-"
    assert outcome.path.read_bytes() == content


def test_two_processes_at_once_transfer_it_once(tmp_path, content):
    waiting = threading.Event()
    with Server({HOPPER.d4rl_file: content}, ["wait"]) as server:
        first, second = Notes(), Notes()
        first.at_progress = lambda have: waiting.set()
        second.say = lambda task, text: (second.lines.append(text), server.hold.set())
        outcomes = {}

        def run(key, notes):
            outcomes[key] = fetch(tmp_path, server.url, notes=notes, patience=Patience(stall=GUARD, pause=0.01))[0]

        one = threading.Thread(target=run, args=("one", first))
        one.start()
        assert waiting.wait(GUARD)
        run("two", second)
        one.join()
        assert server.sent == len(content)
    assert (outcomes["one"].state, outcomes["two"].state) == ("downloaded", "already here")
    assert "waiting" in second.lines[0]
    assert leftovers(tmp_path) == []


@contextmanager
def files_of_at_most(size: int):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_cannot_grow_on_this_disk(tmp_path, content):
    with Server({HOPPER.d4rl_file: content}) as server, Server({HOPPER.d4rl_file: content}) as other:
        with files_of_at_most(half(len(content)) + 1000):
            [outcome] = fetch(tmp_path, server.url, other.url)
        assert outcome.state == "failed"
        assert "Free some space" in outcome.reason
        assert other.asked == []
        have = part_of(tmp_path, server.url).stat().st_size
        assert have == half(len(content)) + 1000
        assert f"{have} of {len(content)} bytes" in outcome.reason
        [outcome] = fetch(tmp_path, server.url)
        assert server.asked[1][1] == f"bytes={have}-"
    assert outcome.path.read_bytes() == content


def test_a_disk_that_is_too_small_is_known_before(tmp_path, content):
    with Server({HOPPER.d4rl_file: content}, ["huge"]) as server:
        [outcome] = fetch(tmp_path, server.url)
    assert f"{len(content) + 10**18} are needed" in outcome.reason
    assert os.listdir(tmp_path) == []


def test_a_host_that_is_not_there_is_not_waited_for_with_every_file(tmp_path):
    notes = Notes()
    outcomes = fetch(tmp_path, "http://127.0.0.1:9/x", tasks=[HOPPER, WALKER, REPLAY], jobs=1, notes=notes)
    assert all(outcome.state == "failed" for outcome in outcomes)
    assert "no connection (Connection refused)" in outcomes[0].tried[0][1]
    assert outcomes[2].tried[0][1].startswith("not asked again")
    assert sum("trying again" in line for line in notes.lines) == QUICK.attempts - 1


@pytest.mark.parametrize("below", ["", "gym_mujoco_v2"])
@pytest.mark.parametrize("form", [str, Path.as_uri])
def test_folders_are_mirrors(tmp_path, content, below, form):
    mirror = tmp_path / "a mirror"
    (mirror / below).mkdir(parents=True)
    (mirror / below / HOPPER.d4rl_file).write_bytes(content)
    [outcome] = fetch(tmp_path / "to", *mirrors.mirrors([form(mirror)])[:1])
    assert outcome.path.read_bytes() == content
    assert leftovers(tmp_path / "to") == []


def test_a_folder_refuses_what_is_no_data(tmp_path, content):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / REPLAY.d4rl_file).mkdir()
    (mirror / WALKER.d4rl_file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    (mirror / ANT.d4rl_file).write_bytes(content[:-100])
    outcomes = fetch(tmp_path / "to", str(mirror), tasks=[HOPPER, REPLAY, WALKER, ANT])
    for outcome, words in zip(outcomes, ["no such file", "is a folder", "Git LFS pointer", "truncated"], strict=True):
        assert outcome.state == "failed"
        assert words in outcome.tried[1][1]
        assert "no such file" in outcome.tried[0][1]


def check_resuming(url: str, content: bytes, replace) -> None:
    """A download from a folder or object store continues, and notices when ``replace`` gives it another file."""
    with mirrors.ask(url, None, QUICK) as answer:
        assert b"".join(answer.blocks) == content
        assert (answer.start, answer.total) == (0, len(content))
    received = mirrors.Received(1000, answer.total, answer.validator)
    with mirrors.ask(url, received, QUICK) as answer:
        assert answer.start == 1000
        assert b"".join(answer.blocks) == content[1000:]
    with mirrors.ask(url, received, QUICK) as answer:
        replace(content[::-1])
        with pytest.raises(mirrors.ChangedError):
            next(answer.blocks)
    with mirrors.ask(url, received, QUICK) as answer:
        assert answer.start == 0


def test_a_download_from_a_folder_resumes(tmp_path, content):
    file = tmp_path / "file"
    file.write_bytes(content)
    check_resuming(str(file), content, file.write_bytes)


def test_a_download_from_s3(tmp_path, content, monkeypatch):
    with stores.serving(monkeypatch) as library:
        bucket = Remote("s3://bucket", patience=20)
        bucket.write(f"d4rl/{HOPPER.d4rl_file}", content)
        check_resuming(
            f"s3://bucket/d4rl/{HOPPER.d4rl_file}", content, partial(bucket.write, f"d4rl/{HOPPER.d4rl_file}")
        )
        bucket.write(f"d4rl/{HOPPER.d4rl_file}", content)
        [mirror, _] = mirrors.mirrors(["s3://bucket/d4rl/"])
        here, missing = fetch(tmp_path, mirror, tasks=[HOPPER, WALKER])
        library.failing = 10**6
        [failed] = fetch(tmp_path, mirror, tasks=[ANT], patience=ONCE)
    assert here.path.read_bytes() == content
    assert [reason for _, reason in missing.tried] == ["no such file"] * 2
    assert re.search("SlowDown|Service Unavailable", failed.tried[0][1])
    assert leftovers(tmp_path) == []


def test_mirrors_are_tried_in_order(tmp_path, monkeypatch):
    monkeypatch.setenv(mirrors.VARIABLE, f" https://b.org/x/  {tmp_path} s3://bucket/d4rl")
    assert mirrors.mirrors(["HTTP://a.org", "https://b.org/x"]) == [
        "http://a.org", "https://b.org/x", str(tmp_path), "s3://bucket/d4rl", "http://127.0.0.1:9/closed",
    ]  # fmt: skip
    assert mirrors.urls("http://a.org/d", "s/n m.hdf5") == ["http://a.org/d/s/n%20m.hdf5", "http://a.org/d/n%20m.hdf5"]


@pytest.mark.parametrize(
    "text", ["http://", "http://[x", "ftp://a.org/x", "s3:///x", "file://host/x", "nowhere", "file:///nowhere"]
)
def test_mirrors_that_are_none(text):
    with pytest.raises(UserError, match=re.escape(text)):
        mirrors.mirrors([text])


def test_a_folder_that_cannot_be_made_or_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"{tmp_path}/file/below.*--to"):
        fetch(tmp_path / "file/below")
    with pytest.raises(UserError, match="no D4RL file"):
        fetch(tmp_path, tasks=[get_task("bandit-ring")])


@pytest.mark.parametrize(
    ("defect", "error"), [(lambda have: 1 / 0, ZeroDivisionError), (lambda have: [].pop(), IndexError)]
)
def test_a_defect_of_ours_is_not_swallowed(tmp_path, content, defect, error):
    notes = Notes()
    notes.at_progress = defect
    with Server({HOPPER.d4rl_file: content}) as server, pytest.raises(error):
        fetch(tmp_path, server.url, notes=notes)


def test_the_command(tmp_path, content, capsys, monkeypatch):
    monkeypatch.setattr(mirrors, "PUBLIC_HOME", str(tmp_path / "public"))
    with Server({HOPPER.d4rl_file: content}) as server:
        assert DownloadData(tasks=(HOPPER.name,), mirror=(server.url,))() == 0
        assert DownloadData(tasks=(HOPPER.name, HOPPER.name), mirror=(server.url,))() == 0
        assert len(server.asked) == 1
        output = capsys.readouterr().out
        assert "no sha256 is published" in output
        assert str(d4rl.datasets_root() / HOPPER.d4rl_file) in output
        assert DownloadData(tasks=(WALKER.name, HOPPER.name), mirror=(server.url,), jobs=2)() == 1
    output = capsys.readouterr().out
    assert re.search(rf"{WALKER.name} +FAILED", output)
    assert re.search(rf"{HOPPER.name} +already here +614\.\d kB", output)
    assert f"{server.url}/gym_mujoco_v2/{WALKER.d4rl_file}: the server answers 404 Not Found" in output
    assert f"{tmp_path}/public/gym_mujoco_v2/{WALKER.d4rl_file}: no such file" in output
    assert "--mirror URL_OR_FOLDER" in output


def test_all_means_the_papers_tasks(tmp_path, contents, monkeypatch):
    for name in list(provenance.KNOWN_SHA256):  # the files here are not D4RL's
        monkeypatch.delitem(provenance.KNOWN_SHA256, name)
    with Server(contents) as server:
        assert DownloadData(all=True, mirror=(server.url,), to=tmp_path / "to", jobs=4)() == 0
    assert len(os.listdir(tmp_path / "to")) == len(server.asked) == 15


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "no task.*--all"),
        ({"all": True, "tasks": ("x",)}, "both --all and"),
        ({"tasks": ("hopper-medium-v3",)}, "hopper-medium-v2"),
        ({"tasks": ("hopper-medium-v2",), "jobs": 0}, "--jobs 0"),
    ],
)
def test_mistakes_in_the_command(options, words):
    with pytest.raises(UserError, match=words):
        DownloadData(**options)()


@contextmanager
def console(terminal: bool):
    file = StringIO()
    yield Console(file=file, force_terminal=terminal, width=100), file


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown(terminal):
    with console(terminal) as (out, file), ProgressDisplay(out, log_seconds=0.0) as display:
        for have in (1_000_000, 2_000_000, 3_000_000):
            time.sleep(0.01)
            display.progress("hopper-medium-v2", have, 4_000_000)
        display.say("hopper-medium-v2", "[red] is not markup")
        if terminal:
            display.live.refresh()
        display.ended("hopper-medium-v2", download.Outcome("hopper-medium-v2", Path("x"), "downloaded"))
    text = file.getvalue()
    assert "hopper-medium-v2: [red] is not markup" in text
    assert "hopper-medium-v2: downloaded" in text
    assert ("3.0/4.0 MB" if terminal else "75% of 4.0 MB") in text
    assert "MB/s" in text


def test_sums_are_remembered_until_the_file_changes(tmp_path):
    path = tmp_path / HOPPER.d4rl_file
    path.write_bytes(b"one")
    assert provenance.known_sha256(path) is None
    assert provenance.checksum_state(path) == "none published"
    published = {HOPPER.d4rl_file: hashlib.sha256(b"one").hexdigest()}
    assert provenance.checksum_state(path, published) == "not computed"
    assert provenance.sha256_of(path) == hashlib.sha256(b"one").hexdigest()
    assert provenance.checksum_state(path, published) == "verified"
    path.write_bytes(b"two!")
    assert provenance.checksum_state(path, published) == "not computed"
    provenance.sha256_of(path)
    assert provenance.checksum_state(path, published) == "differs"
    for text in ("{", "[]", f'{{"{path}": 3}}'):
        (home() / "checksums.json").write_text(text)
        assert provenance.known_sha256(path) is None
    (home() / "checksums.json").unlink()
    (home() / "checksums.json").mkdir()
    assert provenance.sha256_of(path) == hashlib.sha256(b"two!").hexdigest()


def listed(capsys, **options) -> list[str]:
    ListData(**options)()
    return capsys.readouterr().out.splitlines()


def test_the_list_shows_what_is_here_and_where_it_was_looked_for(tmp_path, content, capsys, monkeypatch):
    (tmp_path / HOPPER.d4rl_file).write_bytes(content)
    (tmp_path / REPLAY.d4rl_file).write_bytes(HTML)
    with h5py.File(tmp_path / WALKER.d4rl_file, "w") as file:
        file["obs"] = np.zeros(3)
    (tmp_path / ANT.d4rl_file).symlink_to(tmp_path / "gone")
    monkeypatch.setitem(provenance.KNOWN_SHA256, HOPPER.d4rl_file, hashlib.sha256(content).hexdigest())
    made = collected.root() / "diffcps/bandit-ring-collected-s0-5000-v0/data"
    made.mkdir(parents=True)
    (made / "metadata.json").write_text('{"total_steps": 5000}')
    lines = listed(capsys, data_dir=(tmp_path,))
    row = next(number for number, line in enumerate(lines) if line.startswith(HOPPER.name))
    assert re.fullmatch(rf"{HOPPER.name} +d4rl +614\.\d kB +10,000  not computed", lines[row])
    assert lines[row + 1] == f"    {tmp_path / HOPPER.d4rl_file}"
    text = "\n".join(lines)
    for words in ("web page", "no 'rewards'", f"    {tmp_path}", "datasets (no such folder)", "list --verify"):
        assert words in text
    assert re.search(r"bandit-ring +collected +21 bytes +5,000\n", text)
    assert all(name in text for name in TASKS)
    here = [line for line in lines if str(tmp_path) not in line and str(home()) not in line]
    assert max(len(line) for line in here if not line.startswith("    ")) <= 80
    (made / "metadata.json").write_text("{")
    text = "\n".join(listed(capsys, data_dir=(tmp_path,), verify=True))
    assert "10,000  verified" in text
    assert hashlib.sha256(content).hexdigest() in text
    assert "metadata.json cannot be read" in text
    assert "10,000  verified" in "\n".join(listed(capsys, data_dir=(tmp_path,)))


def test_the_list_shows_files_of_one_name_that_differ(tmp_path, content, capsys):
    for folder in "abc":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / HOPPER.d4rl_file).write_bytes(content)
    folders = tuple(tmp_path / folder for folder in "abc")
    assert "differs from" not in "\n".join(listed(capsys, data_dir=folders, verify=True))
    hdf5(tmp_path / "b" / HOPPER.d4rl_file, seed=1)
    lines = listed(capsys, data_dir=folders, verify=True)
    [said] = [number for number, line in enumerate(lines) if "differs from" in line]
    assert lines[said - 2] == f"    {tmp_path / 'b' / HOPPER.d4rl_file}"


def test_the_list_goes_on_after_a_task_that_is_broken(capsys):
    folder = home() / "tasks"
    folder.mkdir(parents=True)
    (folder / "minari-x.json").write_text("{")
    lines = listed(capsys)
    assert "minari-x" in lines
    assert any("does not define a task" in line for line in lines)
    assert "`diffcps data download" in lines[-1]
