"""What the wrapper measures of a command, and how it is read."""

from __future__ import annotations

import pytest

from pipen_executors.meter import Usage, read_usage

RECORDED = """\
begin 1795559000.000000
1795559000.01 500 0 4194304 3072 1024 2048 0 0
1795559000.52 500 10 4194304 3072 1024 2048 1048576 0
1795559000.52 501 30 8388608 6144 4096 5120 0 2097152
1795559001.03 500 20 4194304 2048 1024 1024 1048576 1048576
end 1795559001.500000
"""


def test_most_memory_is_that_of_all_processes_of_one_moment() -> None:
    assert read_usage(RECORDED) == Usage(
        seconds=1.5,
        rss=9.0,
        vms=12.0,
        uss=5.0,
        pss=7.0,
        read=1.0,
        written=1.0,
        cpu=0.5,
        load=0.2,
        sampled=True,
    )


def test_a_command_that_was_too_quick_for_a_sample() -> None:
    usage = read_usage("begin 1.0\nend 1.25\n")
    assert usage is not None
    assert (usage.seconds, usage.cpu, usage.sampled) == (0.25, 0.0, False)


@pytest.mark.parametrize("text", ["", "begin 1.0\n", "end 1.0\n", "begin 1.0\n1.1 5 0 1"])
def test_cut_off(text: str) -> None:
    assert read_usage(text) is None


def test_a_second_start_counts_alone() -> None:
    first = RECORDED.replace("end 1795559001.500000\n", "")
    usage = read_usage(first + "begin 5.0\n5.1 9 10 1048576 1024 1024 1024 0 0\nend 6.0\n")
    assert usage is not None
    assert (usage.seconds, usage.rss, usage.cpu) == (1.0, 1.0, 0.1)
