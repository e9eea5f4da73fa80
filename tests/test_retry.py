"""The loop for retries."""

import pytest

from diffcps.files import patiently


class Flaky:
    """Raises the given errors, one a call, then returns."""

    def __init__(self, *errors):
        self.errors = iter(errors)

    def __call__(self):
        if (error := next(self.errors, None)) is not None:
            raise error
        return "result"


def test_it_waits_and_calls_again_until_there_is_a_result():
    waited = []
    first, second = OSError("first"), OSError("second")
    result = patiently(
        Flaky(first, second), [1.0, 2.0, 4.0], lambda error: False, lambda *arguments: waited.append(arguments)
    )
    assert result == "result"
    assert waited == [(1.0, first), (2.0, second)]


def test_the_last_error_is_raised_when_it_is_final_or_when_the_waits_are_used_up():
    with pytest.raises(KeyError):
        patiently(Flaky(KeyError("x")), [1.0], lambda error: isinstance(error, KeyError), pytest.fail)
    with pytest.raises(OSError, match="second"):
        patiently(Flaky(OSError("first"), OSError("second")), [1.0], lambda error: False, lambda *_: None)
