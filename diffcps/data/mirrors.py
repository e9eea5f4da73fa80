"""Where D4RL files are fetched from: web addresses and folders, asked for a file from a certain byte on."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import requests
from urllib3.exceptions import ReadTimeoutError

from diffcps import __version__
from diffcps.data.store import PUBLIC_HOME
from diffcps.errors import UserError

VARIABLE = "DIFFCPS_MIRRORS"
BLOCK = 1 << 16
"""Bytes read at a time."""

_AGAIN_LATER = (408, 425, 429)
"""Besides 5xx, the statuses after which the same request may succeed."""


class RefusedError(Exception):
    """This address does not give the file, and asking it again is no use."""


class BrokenError(Exception):
    """The connection failed or was cut; asking again may help."""


class UnreachableError(BrokenError):
    """There was no connection to the host at all."""


class ChangedError(Exception):
    """What the address has is not the file whose beginning is here: start over."""


@dataclass(frozen=True)
class Mirror:
    """One home of D4RL's files: a web address or a folder."""

    base: str
    """``http://…``, ``https://…`` or the absolute path of a folder, without a slash at its end."""

    def addresses(self, sub_path: str) -> list[str]:
        """Where the file may be: at the public home's sub-path (``gym_mujoco_v2/NAME``), or right under the base."""
        name = sub_path.rpartition("/")[2]
        return [f"{self.base}/{quote(part) if is_web(self.base) else part}" for part in (sub_path, name)]


@dataclass(frozen=True)
class Beginning:
    """The part of a file that is here already, and how to tell that the rest belongs to it."""

    size: int
    total: int | None
    validator: str


@dataclass(frozen=True)
class Answer:
    """What an address sends: the bytes from ``start`` on, of ``total`` (``None``: it does not say)."""

    start: int
    total: int | None
    validator: str | None
    """Changes when the file does; ``None`` when the address gives nothing of the kind."""
    blocks: Iterator[bytes]


def is_web(address: str) -> bool:
    """Whether it is a web address rather than a path."""
    return address.startswith(("http://", "https://"))


def homes(given: Sequence[str]) -> list[Mirror]:
    """The mirrors to try, in order: the given ones, those of ``DIFFCPS_MIRRORS`` (between spaces), the public home.

    Raises ``UserError`` for one that is neither a web address nor a folder that exists.
    """
    mirrors = [_mirror(text, "--mirror") for text in given]
    mirrors += [_mirror(text, VARIABLE) for text in os.environ.get(VARIABLE, "").split()]
    return list(dict.fromkeys([*mirrors, Mirror(PUBLIC_HOME)]))


def _mirror(text: str, named_by: str) -> Mirror:
    if is_web(text.lower()):
        try:
            host = urlsplit(text).hostname
        except ValueError:
            host = None
        if not host:
            raise UserError(f"{named_by} {text!r}: the address names no host.")
        scheme, rest = text.split("://", 1)
        return Mirror(f"{scheme.lower()}://{rest.rstrip('/')}")
    path = text
    if text.lower().startswith("file:"):
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise UserError(f"{named_by} {text!r}: a file on another machine; write file:///FOLDER for one on this.")
        path = unquote(parts.path)
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        raise UserError(f"{named_by} {text!r}: a mirror is an http://, https:// or file:// address, or a folder.")
    folder = Path(path).expanduser().absolute()
    if not folder.is_dir():
        what = "it is a file; give the folder it is in" if folder.is_file() else "there is no such folder"
        raise UserError(f"{named_by} {text}: {what}.")
    return Mirror(str(folder))


@contextmanager
def ask(address: str, beginning: Beginning | None, connect: float, stall: float) -> Iterator[Answer]:
    """Open the file at ``address``; with a ``beginning``, the rest of it where that is possible.

    ``connect`` and ``stall`` are the seconds without an answer, and without a byte, after which it is given up.

    Raises:
        RefusedError: the file is not to be had here.
        BrokenError: no connection, or it failed on the way (also while ``blocks`` are read).
        ChangedError: the rest that is offered does not belong to ``beginning``.
    """
    if not is_web(address):
        with _ask_folder(Path(address), beginning) as answer:
            yield answer
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": f"diffcps/{__version__}"}
    if beginning is not None:
        headers |= {"Range": f"bytes={beginning.size}-", "If-Range": beginning.validator}
    try:
        response = requests.get(address, headers=headers, stream=True, timeout=(connect, stall))
    except requests.RequestException as error:
        raise _failure(error, connect, stall) from error
    with response:
        start, total = _extent(response, beginning)
        yield Answer(start, total, _validator(response), _blocks(response, connect, stall))


def _extent(response: requests.Response, beginning: Beginning | None) -> tuple[int, int | None]:
    """First byte and length of the whole file, of an answer that is good."""
    status = response.status_code
    if status == 416 and beginning is not None:
        raise ChangedError
    if status not in (200, 206):
        text = f"it answers {status} {response.reason or ''}".rstrip()
        raise (BrokenError if status >= 500 or status in _AGAIN_LATER else RefusedError)(text)
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise RefusedError(f"it sends the file compressed ({encoding}) although asked not to")
    if status == 200:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    extent = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if extent is None or beginning is None:
        raise RefusedError("it sends a part of the file without saying which, or unasked")
    start, total = int(extent[1]), None if extent[2] == "*" else int(extent[2])
    same = _validator(response) in (None, beginning.validator)  # where If-Range is honoured it need not be repeated
    if not same or (start, total) != (beginning.size, beginning.total):
        raise ChangedError
    return start, total


def _validator(response: requests.Response) -> str | None:
    """A strong ETag, else the time of the last change; a weak ETag may be the same for other bytes."""
    tag = response.headers.get("ETag", "")
    if tag.startswith('"'):
        return tag
    return response.headers.get("Last-Modified")


def _blocks(response: requests.Response, connect: float, stall: float) -> Iterator[bytes]:
    try:
        yield from response.iter_content(BLOCK)
    except requests.RequestException as error:
        raise _failure(error, connect, stall) from error


def _failure(error: requests.RequestException, connect: float, stall: float) -> Exception:
    """The failure in a person's words, and whether asking again may help."""
    if isinstance(error, requests.ConnectTimeout):
        return UnreachableError(f"its host does not answer within {connect:g} s")
    if isinstance(error, requests.ReadTimeout) or (error.args and isinstance(error.args[0], ReadTimeoutError)):
        return BrokenError(f"it stalled: nothing came for {stall:g} s")
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return BrokenError("the connection was cut")
    if isinstance(error, requests.exceptions.SSLError):
        return RefusedError(f"its certificate is not accepted ({_cause(error)})")
    if isinstance(error, requests.ConnectionError):
        sent = "RemoteDisconnected" in str(error) or "Connection reset" in str(error)
        return (BrokenError if sent else UnreachableError)(f"no connection ({_cause(error)})")
    return RefusedError(f"it cannot be asked ({error})")


def _cause(error: BaseException) -> str:
    """The operating system's words at the bottom of a chain of wrappers, or the last wrapper's."""
    deepest: BaseException = error
    while (below := deepest.__cause__ or deepest.__context__) is not None:
        deepest = below
    return getattr(deepest, "strerror", None) or str(deepest) or type(deepest).__name__


@contextmanager
def _ask_folder(path: Path, beginning: Beginning | None) -> Iterator[Answer]:
    try:
        if path.exists() and not path.is_file():
            raise RefusedError("it is a folder or a device, not a file")
        file = path.open("rb")
    except FileNotFoundError as error:
        raise RefusedError("there is no such file") from error
    except OSError as error:
        raise RefusedError(f"it cannot be read ({error.strerror})") from error
    with file:
        status = os.fstat(file.fileno())
        validator = f"{status.st_size}-{status.st_mtime_ns}"
        start = beginning.size if beginning is not None and beginning.validator == validator else 0
        file.seek(start)

        def blocks() -> Iterator[bytes]:
            try:
                while block := file.read(BLOCK):
                    yield block
            except OSError as error:
                raise BrokenError(f"it cannot be read to its end ({error.strerror})") from error

        yield Answer(start, status.st_size, validator, blocks())
