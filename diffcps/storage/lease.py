"""Who works on a sweep in an object store, which has no locks: a note that its holder keeps renewing."""

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from diffcps.errors import UserError
from diffcps.runs.lock import BEAT, NAME
from diffcps.storage.remote import Remote


@contextmanager
def leased(remote: Remote, beat: float = BEAT, lost: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the sweep at ``remote`` alone; ``lost`` is called, in a thread, if another process has taken it over.

    Whether another holder lives is not judged by clocks, which differ between machines, but by watching the note: one
    that does not change for three beats belongs to nobody any more.

    Raises ``UserError`` when a living process holds it.
    """
    token = secrets.token_hex(8)
    holder, begun = f"process {os.getpid()} on {os.uname().nodename}", time.time()
    count = 0

    def note() -> bytes:
        values = {"token": token, "holder": holder, "beat": count, "since": begun, "at": time.time()}
        return json.dumps(values).encode()

    if not remote.create(NAME, note()):
        _wait_for_silence(remote, beat)
        remote.write(NAME, note())
        time.sleep(beat / 5)  # of two that found the same silence, the later one has it
        if _token(remote.read(NAME)) != token:
            raise UserError(_in_use(remote, remote.read(NAME)))
    ended, taken = threading.Event(), threading.Event()

    def renew() -> None:
        nonlocal count
        while not ended.wait(beat):
            try:
                if _token(remote.read(NAME, patience=beat)) not in (token, None):
                    taken.set()
                    lost()
                    return
                count += 1
                remote.write(NAME, note(), patience=beat)
            except UserError:  # the store is away: whoever comes meets the same silence
                continue

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if not taken.is_set() and _token(remote.read(NAME)) == token:
            remote.delete(NAME)


def _wait_for_silence(remote: Remote, beat: float) -> None:
    before = remote.read(NAME)
    deadline = time.monotonic() + 3 * beat
    while before is not None and time.monotonic() < deadline:
        time.sleep(beat / 5)
        asked = time.monotonic()
        now = remote.read(NAME)
        if time.monotonic() - asked > beat / 5:
            # the store did not answer for a while, and the holder could not renew its note either
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
