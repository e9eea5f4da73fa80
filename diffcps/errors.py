"""The one exception that is meant for a person's eyes."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the caller: says what was wrong, with which value, in which file, and what to do next.

    Command lines print its message without a traceback and exit with status 2.
    """


def nearest(name: str, names: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the known name closest to ``name``, or an empty string when none is close."""
    close = difflib.get_close_matches(name.lower(), list(names), n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else ""
