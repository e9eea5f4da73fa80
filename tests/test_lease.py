"""A sweep in an object store is held by one process at a time, and given free by one that died."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import stores
from waits import GUARD

from diffcps.errors import UserError
from diffcps.runs.plan import Plan
from diffcps.storage.location import Location
from diffcps.storage.remote import Remote, leased
from diffcps.sweep import claim

BEAT = 0.25


@pytest.fixture(scope="module")
def store() -> Iterator[stores.Store]:
    with pytest.MonkeyPatch.context() as patch, stores.serving(patch) as running:
        yield running


@pytest.fixture
def remote(store: stores.Store, request: pytest.FixtureRequest) -> Remote:
    return Remote(f"s3://bucket/{request.node.name}", patience=20)


def test_held_by_one_and_then_free(remote: Remote) -> None:
    with leased(remote, BEAT), pytest.raises(UserError, match=r"process \d+ on "), leased(remote, BEAT):
        pass
    assert remote.names() == {}
    with leased(remote, BEAT):
        assert set(remote.names()) == {"lease.json"}


def test_a_dead_holder_is_succeeded(remote: Remote) -> None:
    remote.write("lease.json", b'{"token": "t", "holder": "process 1 on gone", "beat": 7}')
    start = time.monotonic()
    with leased(remote, BEAT):
        assert time.monotonic() - start >= 3 * BEAT


def test_of_two_successors_one_wins(remote: Remote) -> None:
    remote.write("lease.json", b"damaged")
    won: list[int] = []
    refused: list[str] = []

    def succeed(number: int) -> None:
        try:
            with leased(remote, BEAT):
                won.append(number)
                time.sleep(8 * BEAT)
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=succeed, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(refused) == 2


def test_a_holder_learns_that_it_was_replaced(remote: Remote) -> None:
    lost = threading.Event()
    with leased(remote, BEAT, lost.set):
        remote.write("lease.json", b'{"token": "other", "holder": "process 2 on there"}')
        assert lost.wait(GUARD)
    assert remote.read("lease.json") is not None, "the successor's note stays"


def test_a_holder_that_the_store_kept_waiting_is_not_dead(remote: Remote) -> None:
    """A process that could not read for some time cannot know that another was silent for that time."""
    slow = iter([4 * BEAT])

    class Hesitant(Remote):
        def read(self, name: str, patience: float | None = None) -> bytes | None:
            time.sleep(next(slow, 0.0))
            return super().read(name, patience)

    with leased(remote, BEAT), pytest.raises(UserError, match="in use by"), leased(Hesitant(remote.url), BEAT):
        pass


def test_what_was_taken_over_is_left_alone(remote: Remote, tmp_path: Path) -> None:
    """A driver whose sweep another one has claimed must stop, and must not stop that one's trials."""
    stopped = threading.Event()
    location, plan = Location(tmp_path / "view", remote=remote), Plan("view", "demo", ())
    with claim.claimed(location, plan, heartbeat=BEAT, stop=stopped.set) as lost:
        assert not lost.is_set()
        remote.write("lease.json", b'{"token": "other", "holder": "process 2 on there"}')
        assert lost.wait(GUARD)
        assert stopped.wait(GUARD)
    assert remote.read("lease.json") is not None
