from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipen_executors.units import parse_megabytes, parse_options, parse_rate, parse_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        (90, 90),
        ("1.5", 1.5),
        ("30m", 1800),
        ("2h", 7200),
        ("1d", 86400),
        ("500ms", 0.5),
        ("10:30", 630),
        ("1:00:00", 3600),
        ("2-12:00", 216000),
        ("1-00:00:01", 86401),
        (" 5 s ", 5),
    ],
)
def test_seconds(text: str | int, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "-1", "1:2:3:4", "nan", "inf", "1e400", "5 parsecs"])
def test_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="a time such as"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("text", "megabytes"),
    [
        *(("4096", 4096), (4096, 4096), ("4G", 4096), ("4GB", 4096), ("1T", 1 << 20)),
        *(("0.5", 1), ("500K", 1), ("1.5G", 1536), (0, 0)),
    ],
)
def test_megabytes(text: str | int, megabytes: int) -> None:
    assert parse_megabytes(text) == megabytes


@pytest.mark.parametrize("text", ["", "much", "-1", "-4G", "4X"])
def test_no_memory(text: str) -> None:
    with pytest.raises(ValueError, match="an amount of memory"):
        parse_megabytes(text)


@pytest.mark.parametrize(
    ("text", "rate"), [("50/1min", (50, 60)), ("10/s", (10, 1)), ("3/0.5", (3, 0.5))]
)
def test_rate(text: str, rate: tuple[int, float]) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "50", "0/s", "x/s", "5/", "5/0", "-1/s", "5/x"])
def test_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="50/1min"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("value", "options"),
    [
        ("", {}),
        (["partition=short"], {"partition": "short"}),
        (["--partition=short", "mem-per-cpu=1G"], {"partition": "short", "mem-per-cpu": "1G"}),
        (["exclusive", "x=True", "y=false"], {"exclusive": True, "x": True, "y": False}),
        (["l=a=1", "l=b=2"], {"l": ["a=1", "b=2"]}),
        ("l=[a=1, b=2] q=all.q", {"l": ["a=1", "b=2"], "q": "all.q"}),
        ("comment='two words'", {"comment": "two words"}),
        ({"a": 1}, {"a": 1}),
        (["empty="], {"empty": ""}),
    ],
)
def test_options(value: object, options: dict[str, object]) -> None:
    assert parse_options(value) == options  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [["=x"], ["1a=x"], ["a b=x"], ["$(x)=y"], "a='unclosed"])
def test_no_options(value: object) -> None:
    with pytest.raises(ValueError, match="KEY=VALUE"):
        parse_options(value)  # type: ignore[arg-type]


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_seconds, parse_megabytes, parse_rate, parse_options):
        try:
            parse(text)
        except ValueError as error:
            assert str(error)


@given(st.integers(0, 10**6))
def test_seconds_of_whole_numbers(number: int) -> None:
    assert parse_seconds(str(number)) == number
    assert parse_seconds(number) == number
