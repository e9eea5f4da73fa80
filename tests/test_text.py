"""Formatters: one text for each kind of value."""

import pytest

from diffcps import text
from diffcps.text import Column, fitting, markdown_table


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"), (0.4, "0 s"), (45, "45 s"), (59.4, "59 s"), (59.6, "1 min"), (60, "1 min"), (89, "1 min"),
        (719, "12 min"), (59 * 60, "59 min"), (3599, "1 h 00 min"), (3600 + 299, "1 h 05 min"), (3 * 3600 + 300, "3 h 05 min"),
        (47 * 3600, "47 h 00 min"), (48 * 3600, "2 d 0 h"), (48 * 3600 - 10, "2 d 0 h"), (100 * 3600 + 60, "4 d 4 h"),
    ],
)  # fmt: skip
def test_duration(seconds: float, expected: str) -> None:
    assert text.duration(seconds) == expected


def test_numbers() -> None:
    nan = float("nan")
    assert [text.number(nan), text.significant(nan), text.signed(nan), text.percent(nan)] == ["–"] * 4
    assert [text.significant(value) for value in (0.05123, 13.41, 1451.2, 99.96)] == ["0.0512", "13.4", "1451", "100"]
    assert [text.signed(value) for value in (1.23, -0.3)] == ["+1.2", "−0.3"]
    assert [text.short(count) for count in (400, 6000, 123_400, 1_500_000)] == ["400", "6k", "123.4k", "1.5M"]
    assert [text.worded(value) for value in (True, None, 0.30000004, "pi", 12345.6)] == [
        "yes", "none", "0.3", "pi", "1.235e+04",
    ]  # fmt: skip


def test_words() -> None:
    assert (text.counted(1, "trial"), text.counted(2, "trial")) == ("1 trial", "2 trials")
    assert text.tally({"running": 2, "failed": 0, "complete": 1}) == "2 running, 1 complete"
    assert (text.listed(["a", "b"], 3), text.listed(["a", "b", "c"], 2)) == ("a, b", "a, b and 1 more")
    assert (text.span([0, 1, 2]), text.span([0, 2]), text.span([0, 1])) == ("0 to 2", "0, 2", "0, 1")


def test_an_error_is_one_line_of_bounded_length_without_passwords() -> None:
    assert text.first_line(ValueError("from https://ann:pass@word@host/x\nand more")) == "from https://host/x"
    assert text.first_line(KeyError()) == "KeyError"
    assert len(text.first_line("x" * 1000)) == 300


def test_columns_that_do_not_fit_are_dropped_in_order_and_named() -> None:
    columns = [Column("task", ["hopper"]), Column("speed", ["12"], drop=2), Column("device", ["cpu"], drop=1)]
    assert [column.title for column in fitting(columns, 100)[0]] == ["task", "speed", "device"]
    kept, dropped = fitting(columns, 16)
    assert ([column.title for column in kept], dropped) == (["task", "speed"], ["device"])


def test_markdown_is_escaped() -> None:
    assert markdown_table([Column("a|b", ["1_2", "x\ny"]), Column("n", ["*", ""], right=False)]) == (
        "| a\\|b | n |\n| --: | :-- |\n| 1\\_2 | \\* |\n| x y |  |"
    )
