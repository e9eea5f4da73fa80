"""Mirrors of D4RL's files: web servers, folders and object stores, each read from any byte on.

Web servers are asked with ``requests``: one conditional range request (``If-Range``) continues a file and cannot mix
two versions of it. Folders and object stores are read with fsspec, in ranges, each checked against the file's version.
"""

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
from diffcps.data.d4rl import PUBLIC_HOME
from diffcps.errors import UserError
from diffcps.files import file_system, fingerprint, no_credentials

VARIABLE = "DIFFCPS_MIRRORS"
BLOCK = 1 << 16
"""Bytes read at a time from a web server. When a connection breaks, the unfinished block is lost."""
RANGE = 1 << 23
"""Bytes read at a time from a folder or an object store."""
OBJECT_STORES = ("s3", "gs", "az")
"""Schemes of URLs that may be mirrors besides http, https and file."""

_WORTH_REPEATING = (408, 425, 429)
"""HTTP statuses besides 5xx after which the same request may succeed."""


@dataclass(frozen=True)
class Patience:
    """When to give up a URL."""

    connect: float = 10.0
    """Seconds without a connection."""
    stall: float = 30.0
    """Seconds without a byte."""
    attempts: int = 4
    """Attempts in a row that bring no new bytes."""
    pause: float = 1.0
    """Seconds before the second attempt, doubled before each further one."""
    farewell: float = 2.0
    """Seconds that downloads get to stop after an interrupt. One that waits for a server is abandoned."""


PATIENCE = Patience()


class RefusedError(Exception):
    """The URL does not give the file, and asking again is useless."""


class TransferError(Exception):
    """The connection failed or broke; another attempt may succeed."""


class UnreachableError(TransferError):
    """There was no connection to the host at all."""


class ChangedError(TransferError):
    """The file has changed since its first bytes came: they are useless."""


@dataclass(frozen=True)
class Received:
    """The first bytes of a file, and how to tell that the rest belongs to them."""

    size: int
    total: int | None
    """Bytes of the whole file; ``None`` when the server does not say."""
    validator: str
    """What the server said of the file's version: an ETag, or when it was last changed."""


@dataclass(frozen=True)
class Answer:
    """What a URL sends: the bytes from ``start`` on."""

    start: int
    total: int | None
    validator: str | None
    """``None`` when the server says nothing of the file's version; the download cannot be resumed then."""
    blocks: Iterator[bytes]


def mirrors(given: Sequence[str]) -> list[str]:
    """The mirrors to try, in order: ``given``, those in the variable ``DIFFCPS_MIRRORS``, D4RL's public server.

    Each is a URL (http, https, s3, gs, az) or the absolute path of a folder, without a slash at the end.
    Raises ``UserError`` for anything else, and for a folder that does not exist.
    """
    named = [_checked(text, "--mirror") for text in given]
    named += [_checked(text, VARIABLE) for text in os.environ.get(VARIABLE, "").split()]
    return list(dict.fromkeys([*named, PUBLIC_HOME]))


def _checked(text: str, named_by: str) -> str:
    path = text
    if match := re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text):
        scheme = match[1].lower()
        try:
            parts = urlsplit(text)
            host = parts.hostname
        except ValueError:
            raise UserError(f"{named_by} {text!r} is not a valid URL.") from None
        if scheme != "file":
            if scheme not in ("http", "https", *OBJECT_STORES):
                kinds = ", ".join(f"{known}://" for known in ("http", "https", "file", *OBJECT_STORES))
                raise UserError(f"{named_by} {text!r}: a mirror is a folder or a URL ({kinds}).")
            if not host:
                raise UserError(f"{named_by} {text!r}: the URL names no {'host' if is_web(text) else 'bucket'}.")
            return f"{scheme}://{text[match.end() :].rstrip('/')}"
        if parts.netloc not in ("", "localhost"):
            raise UserError(f"{named_by} {text!r} is a file on another machine. Use file:///FOLDER for this machine.")
        path = unquote(parts.path)
    folder = Path(path).expanduser().absolute()
    if not folder.is_dir():
        what = "is a file; name the folder that contains it" if folder.is_file() else "does not exist"
        raise UserError(f"{named_by} {text}: the folder {what}.")
    return str(folder)


def urls(mirror: str, sub_path: str) -> list[str]:
    """Where a mirror may have a file: at D4RL's own sub-path (``gym_mujoco_v2/NAME``), or directly in the mirror."""
    name = sub_path.rpartition("/")[2]
    return [f"{mirror}/{quote(part) if is_web(mirror) else part}" for part in (sub_path, name)]


def is_web(url: str) -> bool:
    """Whether it is an http or https URL."""
    return url.lower().startswith(("http://", "https://"))


@contextmanager
def ask(url: str, received: Received | None, patience: Patience) -> Iterator[Answer]:
    """Open the file at ``url``: after the bytes in ``received`` where possible, else from its start.

    Raises:
        RefusedError: this URL does not give the file.
        TransferError: no connection, or it broke (also while ``blocks`` are read).
        ChangedError: the file is another one than that of ``received``.
    """
    if not is_web(url):
        with _store_errors():
            answer = _ask_store(url, received, patience)
        yield answer
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": f"diffcps/{__version__}"}
    if received is not None:
        headers |= {"Range": f"bytes={received.size}-", "If-Range": received.validator}
    with _web_errors(patience):
        response = requests.get(url, headers=headers, stream=True, timeout=(patience.connect, patience.stall))
    with response:
        start, total = _extent(response, received)
        yield Answer(start, total, _validator(response), _web_blocks(response, patience))


def _extent(response: requests.Response, received: Received | None) -> tuple[int, int | None]:
    """The first byte that is sent, and the length of the whole file."""
    status = response.status_code
    if status == 416 and received is not None:
        raise ChangedError("the file changed during the download")
    if status not in (200, 206):
        text = f"the server answers {status} {response.reason or ''}".rstrip()
        raise (TransferError if status >= 500 or status in _WORTH_REPEATING else RefusedError)(text)
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise RefusedError(f"the server sends the file compressed ({encoding}) although asked not to")
    if status == 200:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    extent = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if extent is None or received is None:
        raise RefusedError("the server sends a part of the file that was not asked for")
    start, total = int(extent[1]), None if extent[2] == "*" else int(extent[2])
    same = _validator(response) in (None, received.validator)  # it need not be repeated where If-Range is obeyed
    if not same or (start, total) != (received.size, received.total):
        raise ChangedError("the file changed during the download")
    return start, total


def _validator(response: requests.Response) -> str | None:
    """A strong ETag, else the time of the last change; a weak ETag may be the same for other bytes."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _web_blocks(response: requests.Response, patience: Patience) -> Iterator[bytes]:
    with _web_errors(patience):
        yield from response.iter_content(BLOCK)


@contextmanager
def _web_errors(patience: Patience) -> Iterator[None]:
    """Errors of ``requests`` become ours, with a reason that names the cause."""
    try:
        yield
    except requests.ConnectTimeout as error:
        raise UnreachableError(f"the host does not answer within {patience.connect:g} s") from error
    except requests.exceptions.ChunkedEncodingError as error:
        raise TransferError("the connection broke") from error
    except requests.exceptions.SSLError as error:
        raise RefusedError(f"its certificate is not accepted ({_cause(error)})") from error
    except (requests.ReadTimeout, requests.ConnectionError) as error:
        if isinstance(error, requests.ReadTimeout) or isinstance(next(iter(error.args), None), ReadTimeoutError):
            raise TransferError(f"the connection stalled: no bytes for {patience.stall:g} s") from error
        was_connected = "RemoteDisconnected" in str(error) or "Connection reset" in str(error)
        raise (TransferError if was_connected else UnreachableError)(f"no connection ({_cause(error)})") from error
    except requests.RequestException as error:
        raise RefusedError(f"the request failed ({error})") from error


def _cause(error: BaseException) -> str:
    """The operating system's words at the bottom of a chain of errors, or the last error's."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _ask_store(url: str, received: Received | None, patience: Patience) -> Answer:
    system = file_system(url, patience.connect, patience.stall)
    facts = system.info(url)
    if facts["type"] != "file":
        raise RefusedError("it is a folder or a device, not a file")
    total, validator = int(facts["size"]), fingerprint(facts)
    start = 0
    if received is not None and (received.total, received.validator) == (total, validator):
        start = received.size

    def blocks() -> Iterator[bytes]:
        for first in range(start, total, RANGE):
            with _store_errors():
                block = system.cat_file(url, start=first, end=min(first + RANGE, total))
                if fingerprint(system.info(url)) != validator:
                    raise ChangedError("the file changed during the download")
            yield block

    return Answer(start, total, validator, blocks())


@contextmanager
def _store_errors() -> Iterator[None]:
    """Errors of fsspec and of the stores' own libraries become ours."""
    try:
        yield
    except (RefusedError, TransferError):
        raise
    except FileNotFoundError as error:
        raise RefusedError("no such file") from error
    except PermissionError as error:
        raise RefusedError(f"access is denied ({error.strerror or error})") from error
    except ImportError as error:
        raise RefusedError(f"a package is missing ({error}); for s3:// run pip install 'diffcps[s3]'") from error
    except Exception as error:  # each store's library has errors of its own, without a common base
        text = f"{type(error).__name__}: {error}"
        if no_credentials(error):
            raise RefusedError(f"no credentials for it in the environment ({text})") from error
        raise TransferError(f"cannot be read ({text})") from error
