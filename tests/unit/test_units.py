from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipen_executors.units import (
    one_of,
    parse_gpus,
    parse_megabytes,
    parse_minutes,
    parse_options,
    parse_path,
    parse_rate,
    parse_seconds,
    parse_switch,
    parse_text,
    parse_words,
    whole_number,
)


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


@pytest.mark.parametrize("value", [5, True, [5], [["a=b"]], None])
def test_options_that_are_no_text(value: Any) -> None:
    with pytest.raises(ValueError, match="expected KEY=VALUE"):
        parse_options(value)


@pytest.mark.parametrize("value", [5, True, {"a": "b"}, None])
def test_words_that_are_no_text(value: Any) -> None:
    with pytest.raises(ValueError, match="expected words"):
        parse_words(value)


@pytest.mark.parametrize("value", [5, True, ["a"], None])
def test_text_that_is_none(value: Any) -> None:
    for parse in (parse_text, parse_path):
        with pytest.raises(ValueError, match="expected a text"):
            parse(value)


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


SWITCHES = [
    *((value, True) for value in (True, 1, "1", "yes", "Yes", "TRUE", "on", " y ", numpy.True_)),
    *((value, False) for value in (False, 0, "0", "no", "NO", "False", "off", "n", numpy.False_)),
]


@pytest.mark.parametrize(("value", "switch"), SWITCHES)
def test_switches(value: object, switch: bool) -> None:
    assert parse_switch(value) is switch


@pytest.mark.parametrize("value", ["", "perhaps", 2, None, [True], "yes please", "1.0"])
def test_no_switch(value: object) -> None:
    with pytest.raises(ValueError, match="expected yes or no"):
        parse_switch(value)


@pytest.mark.parametrize("value", [3, 3.0, "3", " 3 ", "3.0", numpy.int64(3), numpy.float64(3)])
def test_whole_numbers(value: object) -> None:
    assert whole_number(1)(value) == 3


@pytest.mark.parametrize("value", [True, 0, -3, 1.5, "3 GB", "", "²", None, 1e400])
def test_no_whole_number(value: object) -> None:
    with pytest.raises(ValueError, match="expected a whole number, 1 or more"):
        whole_number(1)(value)


def test_one_of_a_few_words_in_any_case() -> None:
    read = one_of(("auto", "SPOT"))
    assert [read(word) for word in ("auto", "Auto", " spot")] == ["auto", "auto", "SPOT"]
    with pytest.raises(ValueError, match="expected one of auto, SPOT"):
        read("other")


class TestPaths:
    def test_home_and_variables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/me")
        monkeypatch.setenv("PLACE", "there")
        assert parse_path("~/a") == Path("/home/me/a")
        assert parse_path("/data/$PLACE/${PLACE}x") == Path("/data/there/therex")

    @pytest.mark.parametrize("text", ["$NO_SUCH/x", "/data/${NO_SUCH}", "~/$NO_SUCH"])
    def test_a_variable_that_is_not_set_is_named(self, text: str) -> None:
        with pytest.raises(ValueError, match="the environment variable NO_SUCH is not set"):
            parse_path(text)

    def test_a_user_that_there_is_not(self) -> None:
        with pytest.raises(ValueError, match="there is no user 'nobody-of-that-name'"):
            parse_path("~nobody-of-that-name/x")

    def test_a_name_with_a_dollar_in_it(self, tmp_path: Path) -> None:
        (tmp_path / "a$b").touch()
        assert parse_path(f"{tmp_path}/a$b") == tmp_path / "a$b"

    def test_relative_ones(self, tmp_path: Path) -> None:
        """Beside the profile if it is there, else where Snakemake was called."""
        profile, called = tmp_path / "profile", tmp_path / "called"
        for place in (profile, called):
            place.mkdir()
        (profile / "a").touch()
        (called / "b").touch()
        assert parse_path("a", profile, called) == profile / "a"
        assert parse_path("b", profile, called) == called / "b"
        assert parse_path("neither", profile, called) == called / "neither"
        assert parse_path("x") == Path("x")


@pytest.mark.parametrize(
    ("value", "minutes"),
    [
        (0, 0),
        (5, 5),
        ("5", 5),
        (0.2, 1),
        (2.6, 3),
        ("UNLIMITED", 0),
        ("infinite", 0),
        (-1, 0),
        ("2h", 120),
    ],
)
def test_minutes(value: object, minutes: int) -> None:
    assert parse_minutes(value) == minutes  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["", "soon", -5, "nan", True])
def test_no_minutes(value: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_minutes(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["", "a100", ":2", "a100:x", -1, 1.5, True, "a100:2,"])
def test_no_number_of_gpus(value: object) -> None:
    with pytest.raises(ValueError, match="expected a number of GPUs"):
        parse_gpus(value)  # type: ignore[arg-type]
