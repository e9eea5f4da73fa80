"""Ray's folder on this machine: sockets and logs of a cluster that a sweep starts, and the address of one that runs here."""

import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from diffcps.errors import UserError

LONGEST = (
    (104 if sys.platform == "darwin" else 108)
    - 1
    - len("/ray/session_2026-01-31_23-59-59_999999_4194304/sockets/dash_TaskEventsHead")
)
"""Bytes of the folder's path: the path of a Unix socket is limited, and Ray appends its longest to it."""
_LONGEST_TMPDIR = (104 if sys.platform == "darwin" else 108) - 1 - len("/pymp-12345678/listener-12345678")
"""Bytes of TMPDIR: Python's ``multiprocessing`` has sockets there, and a cluster's dashboard uses it."""
_PROBE = bytes(2**20)


class Running(NamedTuple):
    """A cluster that runs on this machine."""

    address: str
    mine: bool
    """Whether the same user started it."""


def default(environment: Mapping[str, str]) -> Path:
    """The folder above Ray's own when nobody says otherwise, by Ray's rule."""
    if given := environment.get("RAY_TMPDIR"):
        return Path(given)
    if sys.platform == "linux":
        return Path(environment.get("TMPDIR") or "/tmp")
    return Path("/tmp") if sys.platform == "darwin" else Path(tempfile.gettempdir())


def variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What the processes of a cluster that is started here need.

    RAY_TMPDIR; TMPDIR where that is too long; and a token of its own where Ray cannot keep one in the home folder.

    Raises ``UserError`` if no folder suits.
    """
    folder = str(own(environment))
    too_long = len(os.fsencode(environment.get("TMPDIR", ""))) > _LONGEST_TMPDIR
    return {"RAY_TMPDIR": folder} | ({"TMPDIR": folder} if too_long else {}) | _token(environment)


def _token(environment: Mapping[str, str]) -> dict[str, str]:
    # a home may be missing or closed to this user: these functions then answer no, where those of Path raise
    home = environment.get("HOME") or os.path.expanduser("~")
    folder = os.path.join(home, ".ray")
    kept = os.path.exists(os.path.join(folder, "auth_token"))
    given = any(environment.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if given or kept or os.access(folder if os.path.exists(folder) else home, os.W_OK):
        return {}
    return {"RAY_AUTH_TOKEN": secrets.token_hex(32)}


def own(environment: Mapping[str, str]) -> Path:
    """The folder for a cluster that is started here, to be given to Ray as RAY_TMPDIR; it is made if it is missing.

    It is RAY_TMPDIR if that is set, else ``ray-UID`` in TMPDIR or, where that does not suit, in ``/tmp``. Ray's default is
    one folder for all users of a machine, which the first of them owns.

    Raises:
        UserError: no folder suits; with the reason for each.
    """
    if given := environment.get("RAY_TMPDIR"):
        folders = [Path(given)]
    else:
        above = dict.fromkeys([default(environment), *([Path("/tmp")] if os.name == "posix" else [])])
        folders = [folder / f"ray-{_user()}" for folder in above]
    reasons = [_unsuitable(folder, shared=bool(given)) for folder in folders]
    for folder, reason in zip(folders, reasons, strict=True):
        if not reason:
            return folder
    raise UserError(
        f"Ray has no folder for its sockets and logs: {'; '.join(reasons)}. Set RAY_TMPDIR to a folder on this machine that you "
        f"can write, with free space and a path of at most {LONGEST} bytes."
    )


def _unsuitable(folder: Path, shared: bool) -> str:
    """Why Ray cannot use the folder; empty if it can. Only a ``shared`` one may belong to somebody else."""
    if os.name == "posix" and (size := len(os.fsencode(folder))) > LONGEST:
        return f"the path {folder} has {size} bytes, and at most {LONGEST} fit before the names of Ray's sockets"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not shared and folder.stat().st_uid != _user():
            return f"{folder} belongs to another user"
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(_PROBE)
            probe.flush()
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror}"
    return ""


def running(environment: Mapping[str, str] = os.environ) -> Running | None:
    """The newest cluster of this machine, if it answers; Ray would wait for minutes for one that is dead."""
    file = default(environment) / "ray" / "ray_current_cluster"
    try:
        address, mine = file.read_text(encoding="utf-8").strip(), file.stat().st_uid == _user()
    except OSError:  # there is none, or another user hides his
        return None
    return Running(address, mine) if answers(address) else None


def answers(address: str) -> bool:
    """Whether somebody listens at ``host:port``."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return False
    try:
        with socket.create_connection((host, int(port)), timeout=2.0):
            return True
    except OSError:
        return False


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0
