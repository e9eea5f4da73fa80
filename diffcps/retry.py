"""Requests to servers that sometimes do not answer: one loop for retries, one way to open a store through fsspec."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

Result = TypeVar("Result")


def patiently(
    call: Callable[[], Result],
    waits: Iterable[float],
    is_final: Callable[[Exception], bool],
    wait: Callable[[float, Exception], object],
) -> Result:
    """The result of ``call``, repeated while it raises.

    Args:
        call: one attempt.
        waits: seconds before the second attempt, the third, …. An iterator is advanced once after each failure, so it
            can look at a clock, or at how far the last attempt got, to decide whether there is another.
        is_final: whether another attempt is useless after this error.
        wait: waits that many seconds, after this error; a place for a log line.

    Raises the error of the last attempt when it is final or when ``waits`` are used up.
    """
    remaining = iter(waits)
    while True:
        try:
            return call()
        except Exception as error:
            pause = None if is_final(error) else next(remaining, None)
            if pause is None:
                raise
            wait(pause, error)


def file_system(url: str, connect: float, stall: float) -> Any:
    """fsspec's file system for a URL, or for a path on this machine. Nothing it lists is cached.

    ``connect`` and ``stall`` are seconds without a connection, and without an answer, after which a request to S3 fails.
    It is then not repeated: that is for the caller to decide.

    Raises ``ImportError`` when the scheme needs a package that is not installed, ``ValueError`` when it is unknown.
    """
    import fsspec

    scheme, separator, _ = url.partition("://")
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme == "s3":
        # botocore's own timeouts and retries add up to minutes
        options["config_kwargs"] = {"connect_timeout": connect, "read_timeout": stall, "retries": {"max_attempts": 1}}
        options["cache_regions"] = False
    return fsspec.filesystem(scheme if separator else "file", **options)
