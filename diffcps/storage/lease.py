"""A lease on a sweep in an object store, which has no locks: a note that its holder keeps renewing."""

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from diffcps.errors import UserError
from diffcps.runs.lock import HEARTBEAT_SECONDS, LEASE
from diffcps.storage.remote import Remote


@contextmanager
def leased(remote: Remote, beat: float = HEARTBEAT_SECONDS, lost: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the sweep at ``remote``; ``lost`` is called, in a thread, when another process has claimed it.

    Clocks differ between machines, so whether another holder lives follows from watching its note: after three heartbeats
    without a change it is dead.

    Raises ``UserError`` when a living process holds it.
    """
    token = secrets.token_hex(8)
    holder, begun = f"process {os.getpid()} on {os.uname().nodename}", time.time()
    count = 0

    def note() -> bytes:
        values = {"token": token, "holder": holder, "beat": count, "since": begun, "at": time.time()}
        return json.dumps(values).encode()

    if not remote.create(LEASE, note()):
        _wait_for_silence(remote, beat)
        remote.write(LEASE, note())
        time.sleep(beat / 5)  # if two waited for the same dead holder, the later one gets the lease
        if _token(remote.read(LEASE)) != token:
            raise UserError(_in_use(remote, remote.read(LEASE)))
    ended, taken = threading.Event(), threading.Event()

    def renew() -> None:
        nonlocal count
        while not ended.wait(beat):
            try:
                if _token(remote.read(LEASE, patience=beat)) not in (token, None):
                    taken.set()
                    lost()
                    return
                count += 1
                remote.write(LEASE, note(), patience=beat)
            except UserError:  # the store does not answer, for other processes neither
                continue

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if not taken.is_set() and _token(remote.read(LEASE)) == token:
            remote.delete(LEASE)


def _wait_for_silence(remote: Remote, beat: float) -> None:
    before = remote.read(LEASE)
    deadline = time.monotonic() + 3 * beat
    while before is not None and time.monotonic() < deadline:
        time.sleep(beat / 5)
        begun = time.monotonic()
        now = remote.read(LEASE)
        if time.monotonic() - begun > beat / 5:
            # the store did not answer for some time, so the holder could not renew its note either
            deadline = time.monotonic() + 3 * beat
        if now is not None and now != before:
            raise UserError(_in_use(remote, now))
        before = now


def _token(content: bytes | None) -> str | None:
    try:
        return str(json.loads(content)["token"]) if content else None
    except (ValueError, KeyError, TypeError):
        return None


def _in_use(remote: Remote, content: bytes | None) -> str:
    try:
        holder = json.loads(content or b"")["holder"]
    except (ValueError, KeyError, TypeError):
        holder = "another process"
    return f"{remote.url} is in use by {holder}. Wait for it, or stop it, and start again."
