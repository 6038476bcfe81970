"""What doctor reads from a Slurm, on recorded output."""

from __future__ import annotations

import pytest

from snakemake_executor_plugin_pipen_slurm.doctor import (
    Association,
    SeenPartition,
    associations,
    partitions,
    release,
)

from .slurm_recorded import RELEASES, recorded

pytestmark = pytest.mark.parametrize(
    "recorded_release", [name for name in RELEASES if recorded(name, "sinfo.out")]
)


def test_release(recorded_release: str) -> None:
    text = recorded(recorded_release, "version.out")
    assert release(text) == tuple(map(int, recorded_release.split(".")))
    assert release("slurm 24.11.5-Bull.1.0") == (24, 11)
    assert release("") is None
    assert release("not Slurm") is None


def test_partitions(recorded_release: str) -> None:
    found = {one.name: one for one in partitions(recorded(recorded_release, "sinfo.out"))}
    assert list(found) == ["main", "short", "low", "high", "side", "one", "off", "asleep"]
    assert found["main"] == SeenPartition("main", True, "infinite", "4", "8192", 2, True)
    assert [name for name, one in found.items() if not one.is_up] == ["off", "asleep"]
    assert [name for name, one in found.items() if one.is_default] == ["main"]
    assert found["short"].describe() == (
        "partition short: 2 nodes, at least 4 CPUs and 8192 MB each, time limit 1:00"
    )


def test_partition_with_nodes_of_several_kinds(recorded_release: str) -> None:
    (one,) = partitions("all|up|1-00:00:00|8+|16000+|2|all*\nall|up|1-00:00:00|64|512000|3|all*\n")
    assert one.nodes == 5
    assert "the default: 5 nodes, at least 8 CPUs and 16000 MB each" in one.describe()
    assert partitions("sinfo: error: nothing of the kind") == []


def test_accounts(recorded_release: str) -> None:
    found = associations(recorded(recorded_release, "sacctmgr-user.out"))
    assert [one.account for one in found] == ["grp", "narrow", "tight", "lab"]
    assert found[-1] == Association("lab", "", "normal,one,tight", True)
    assert [one.default for one in found] == [False, False, False, True]
    assert associations(recorded(recorded_release, "sacctmgr-user-nobody.out")) == []
