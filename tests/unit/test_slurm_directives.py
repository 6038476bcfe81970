"""From resources and options to sbatch's command line."""

from __future__ import annotations

from typing import Any

import pytest

from pipen_executors.exceptions import SettingError, UserError
from pipen_executors.spec import JobSpec, Resources
from pipen_executors.units import parse_options
from snakemake_executor_plugin_pipen_slurm.directives import command_line, sbatch_options

from .specs import job_spec


def spec(
    options: dict[str, Any] | str | None = None,
    *,
    threads: int = 1,
    mem_mb: int | None = None,
    runtime: int | None = None,
    gpu: int | None = None,
    defaulted: tuple[str, ...] = (),
    assumed: tuple[str, ...] = (),
    overwritten: tuple[str, ...] = (),
    **extra: Any,
) -> JobSpec:
    resources = Resources(
        threads=threads,
        mem_mb=mem_mb,
        runtime=runtime,
        gpus=gpu,
        extra=extra,
        defaulted=frozenset(defaulted + assumed),
        assumed=frozenset(assumed),
        overwritten=frozenset(overwritten),
    )
    return job_spec("a", resources=resources, options=parse_options(options or {}))


def words(*args: Any, **kwargs: Any) -> list[str]:
    return command_line(sbatch_options(spec(*args, **kwargs)))


BARE = ["--ntasks=1", "--cpus-per-task=1"]


def test_a_rule_that_asks_for_nothing() -> None:
    assert words() == BARE, "no memory, no time: the site's defaults hold"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"slurm_partition": "short"}, "--partition=short"),
        ({"slurm_account": "lab"}, "--account=lab"),
        ({"slurm_qos": "high"}, "--qos=high"),
        ({"qos": "high"}, "--qos=high"),
        ({"slurm_reservation": "course"}, "--reservation=course"),
        ({"reservation": "course"}, "--reservation=course"),
        ({"clusters": "big"}, "--clusters=big"),
        ({"cluster": "big"}, "--clusters=big"),
        ({"slurm_cluster": "big"}, "--clusters=big"),
        ({"constraint": "haswell|skylake"}, "--constraint=haswell|skylake"),
        ({"nodes": 2}, "--nodes=2"),
        ({"tasks": 3}, "--ntasks=3"),
        ({"tasks_per_node": 4}, "--ntasks-per-node=4"),
        ({"cpus_per_task": 5}, "--cpus-per-task=5"),
        ({"cpus_per_task": 0}, "--cpus-per-task=1"),
        ({"threads": 6}, "--cpus-per-task=6"),
        ({"mem_mb": 4096}, "--mem=4096M"),
        ({"mem_mb_per_cpu": 4096}, "--mem-per-cpu=4096M"),
        ({"mem_mb_per_cpu": "4G"}, "--mem-per-cpu=4096M"),
        ({"runtime": 120}, "--time=120"),
        ({"gpu": 2}, "--gpus=2"),
        ({"gpu": 2, "gpu_model": "a100"}, "--gpus=a100:2"),
        ({"gpu_model": "a100"}, "--gpus=a100:1"),
        ({"gres": "gpu:1"}, "--gres=gpu:1"),
        ({"gres": "gpu:a100:2,shard:3"}, "--gres=gpu:a100:2,shard:3"),
        ({"gpu": 1, "cpus_per_gpu": 7}, "--cpus-per-gpu=7"),
        ({"gpu": 1, "tasks_per_gpu": 2}, "--ntasks-per-gpu=2"),
        ({"gres": "gpu:1", "tasks": 2}, "--ntasks-per-gpu=2"),
        ({"mpi": "srun", "tasks": 8}, "--ntasks=8"),
        ({"mpi": "srun", "tasks_per_node": 8, "nodes": 2}, "--ntasks-per-node=8"),
        ({"slurm_extra": "--mail-type=END --nice"}, "--mail-type=END"),
        ({"slurm_extra": "--mail-type=END --nice"}, "--nice"),
        ({"slurm_extra": "--mail-user 'a b' -w n1"}, "--mail-user=a b"),
        ({"slurm_extra": "--mail-user 'a b' -w n1"}, "--nodelist=n1"),
        ({"slurm_extra": "--export=ALL,X=1"}, "--export=ALL,X=1"),
    ],
)
def test_every_resource_name(asked: dict[str, Any], expected: str) -> None:
    assert expected in words(**asked)


def test_what_follows_from_asking_for_gpus() -> None:
    assert sorted(words(gpu=1, threads=4)) == ["--cpus-per-task=4", "--gpus=1"]
    assert "--cpus-per-task=4" not in words(gpu=1, threads=4, cpus_per_gpu=2)
    assert words(gpu=0) == BARE


def test_negative_number_of_cpus_asks_for_no_such_option() -> None:
    assert words(cpus_per_task=-1, threads=4) == ["--ntasks=1"]
    assert words(gpu=1, cpus_per_gpu=-1, threads=4) == ["--gpus=1"]


def test_mpi_wants_tasks() -> None:
    with pytest.raises(UserError, match="Rule a has a resource mpi"):
        words(mpi="srun")
    both = words(mpi="srun", tasks=4, tasks_per_node=2)
    assert {"--ntasks=4", "--ntasks-per-node=2"} <= set(both), "at most two on a node"
    assert "--ntasks=1" not in words(tasks_per_node=4, nodes=2), "8, not one"


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({"mem_mb": 100, "mem_mb_per_cpu": 100}, ("mem_mb (100M)", "mem_mb_per_cpu (100M)")),
        ({"mem_mb": 1, "mem_mb_per_gpu": 2, "gpu": 1}, ("mem_mb (1M)", "mem_mb_per_gpu (2M)")),
        ({"options": "ntasks-per-gpu=1 gpus-per-task=1"}, ("ntasks-per-gpu", "gpus-per-task")),
        ({"options": "mem=1G mem_per_gpu=1G"}, ("mem (1G)", "mem_per_gpu (1G)")),
        ({"options": "cpus_per_task=1 cpus-per-gpu=1"}, ("cpus_per_task", "cpus-per-gpu")),
    ],
)
def test_options_that_exclude_each_other(asked: dict[str, Any], names: tuple[str, str]) -> None:
    with pytest.raises(UserError, match="takes only one") as raised:
        words(**asked)
    for name in names:
        assert name in str(raised.value)
    assert "Rule a" in str(raised.value)
    assert "sbatch(1)" in str(raised.value)


class TestWhoseValueCounts:
    """The option, --set-resources, the rule, --default-resources, Snakemake's own default."""

    ORDER = ("assumed", "defaulted", "", "overwritten")

    @pytest.mark.parametrize("lower", [0, 1, 2])
    def test_memory(self, lower: int) -> None:
        for higher in range(lower + 1, len(self.ORDER)):
            for low, high, option in (
                ("mem_mb", "mem_mb_per_cpu", "--mem-per-cpu=7M"),
                ("mem_mb_per_cpu", "mem_mb", "--mem=7M"),
            ):
                whose: dict[str, Any] = {}
                for name, level in ((low, self.ORDER[lower]), (high, self.ORDER[higher])):
                    if level:
                        whose[level] = (name,)
                given = words(**{low: 5, high: 7}, **whose)
                assert [word for word in given if word.startswith("--mem")] == [option]

    @pytest.mark.parametrize(
        ("asked", "default", "there", "gone"),
        [
            ({"gpu": 2, "gres": "gpu:a100:1"}, "gres", "--gpus=2", "--gres"),
            ({"gpu": 2, "gres": "gpu:1,lscratch:5"}, "gres", "--gres=lscratch:5", "gpu:1"),
            ({"gpu": 2, "gres": "lscratch:5"}, "gres", "--gres=lscratch:5", "nothing"),
            ({"gpu": 2, "gres": "gpu:a100:1"}, "gpu", "--gres=gpu:a100:1", "--gpus"),
            ({"gpu": 0, "gres": "gpu:a100:1"}, "gres", "--ntasks=1", "--gres"),
            ({"tasks": 2, "tasks_per_node": 4}, "tasks_per_node", "--ntasks=2", "per-node"),
            ({"tasks": 2, "tasks_per_node": 4}, "tasks", "--ntasks-per-node=4", "--ntasks="),
            ({"mem_mb": 5, "mem_mb_per_gpu": 4, "gpu": 1}, "mem_mb_per_gpu", "--mem=5M", "per-gpu"),
            ({"mem_mb": 5, "slurm_extra": "--mem-per-cpu=1G"}, "slurm_extra", "--mem=5M", "1G"),
            ({"runtime": 5, "slurm_extra": "--time=9"}, "slurm_extra", "--time=5", "--time=9"),
        ],
    )
    def test_the_rule_before_the_default(
        self, asked: dict[str, Any], default: str, there: str, gone: str
    ) -> None:
        given = words(**asked, defaulted=(default,))
        assert there in given
        assert not any(gone in word for word in given)

    def test_the_option_before_all(self) -> None:
        given = words("mem_per_cpu=1G gpus_per_node=2", mem_mb=5, gpu=1, overwritten=("mem_mb",))
        assert "--mem-per-cpu=1G" in given
        assert "--gpus-per-node=2" in given
        assert not {"--mem=5M", "--gpus=1"} & set(given)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"gpu": 1, "gpu_model": "a100-sxm4.40gb"}, "--gpus=a100-sxm4.40gb:1"),
        ({"gpu": 3, "gpu_text": "a100:2,v100:1"}, "--gpus=a100:2,v100:1"),
        ({"gpu": 1, "gres": "gpu:nvidia_a100-pcie.3g:1"}, "--gres=gpu:nvidia_a100-pcie.3g:1"),
        ({"gpu": 1, "gres": "lscratch:10"}, "--gres=lscratch:10"),
        ({"gpu": 1, "gres": "lscratch:10"}, "--gpus=1"),
        ({"gres": "bandwidth:lustre:no_consume:4G"}, "--gres=bandwidth:lustre:no_consume:4G"),
        ({"constraint": "[rack1|rack2]"}, "--constraint=[rack1|rack2]"),
        ({"constraint": "[(knl&flat)*2&haswell*1]"}, "--constraint=[(knl&flat)*2&haswell*1]"),
        ({"nodes": "1-4"}, "--nodes=1-4"),
        ({"nodes": 0}, "--nodes=0"),
        ({"runtime": 0}, "--time=0"),
        ({"mem_mb": 0}, "--mem=0M"),
        ({"slurm_qos": "high,low"}, "--qos=high,low"),
        ({"tasks_per_gpu": 0, "gpu": 1}, "--gpus=1"),
        ({"options": {"exclude": "n[1-3]"}}, "--exclude=n[1-3]"),
        ({"options": "mail-type=END,FAIL"}, "--mail-type=END,FAIL"),
        ({"options": "requeue=yes"}, "--requeue"),
        ({"options": "exclusive=on"}, "--exclusive"),
        ({"options": "exclusive=user"}, "--exclusive=user"),
        ({"options": "kill-on-invalid-dep=true"}, "--kill-on-invalid-dep=yes"),
        ({"options": "nice=0"}, "--nice=0"),
    ],
)
def test_what_sbatch_takes_goes_through(asked: dict[str, Any], expected: str) -> None:
    if text := asked.get("gpu_text"):
        resources = Resources(gpus=asked["gpu"], extra={"gpu": text})
        assert expected in command_line(sbatch_options(job_spec("a", resources=resources)))
    else:
        assert expected in words(**asked)


@pytest.mark.parametrize("option", ["parsable=true", "wait=no", "test-only=off", "requeue=0"])
def test_options_that_change_nothing(option: str) -> None:
    assert words(option) == BARE


@pytest.mark.parametrize(
    ("asked", "where", "right"),
    [
        ({"nodes": "two"}, "resource nodes of rule a", "range such as 1-4 (sbatch(1), --nodes)"),
        ({"tasks": "x"}, "resource tasks of rule a", "whole number"),
        ({"cpus_per_task": "x"}, "resource cpus_per_task of rule a", "whole number"),
        ({"mem_mb_per_cpu": "much"}, "resource mem_mb_per_cpu of rule a", "4G"),
        ({"slurm_extra": "nonsense"}, "resource slurm_extra of rule a", "dash"),
        ({"slurm_extra": "--a 'b"}, "resource slurm_extra of rule a", "quoted"),
        ({"options": "array=1-5"}, "option array of rule a", "makes arrays"),
        ({"slurm_extra": "--wrap=true"}, "option wrap of rule a", "a script of its own"),
    ],
)
def test_values_that_cannot_be_right(asked: dict[str, Any], where: str, right: str) -> None:
    with pytest.raises(SettingError) as raised:
        words(**asked)
    assert where in str(raised.value)
    assert right in str(raised.value)


# -- pipen's way -----------------------------------------------------------------------


def test_options_as_in_pipen() -> None:
    given = words("partition=short qos=high gres=gpu:1 exclusive=true nice=false mail_type=END")
    assert {"--partition=short", "--qos=high", "--gres=gpu:1", "--exclusive"} <= set(given)
    assert "--mail-type=END" in given
    assert not any(word.startswith("--nice") for word in given)


def test_list_repeats_the_option() -> None:
    assert words({"licenses": ["a", "b"]})[-2:] == ["--licenses=a", "--licenses=b"]
    assert words("prefer=[x, y]")[-2:] == ["--prefer=x", "--prefer=y"]


def test_options_win_over_resources() -> None:
    given = words("time=1-00:00:00 p=long mem_per_cpu=1G", runtime=5, mem_mb=7, slurm_partition="x")
    assert "--time=1-00:00:00" in given
    assert "--partition=long" in given
    assert "--mem-per-cpu=1G" in given
    assert not any(word.startswith(("--mem=", "--time=5", "--partition=x")) for word in given)
    assert "--ntasks=9" in words({"ntasks": 9}, tasks=2)


def test_units_are_left_to_sbatch_where_they_are_its_own() -> None:
    assert "--mem=4G" in words("mem=4G")
    assert "--time=2:00:00" in words("time=2:00:00")


def test_false_takes_away_what_a_resource_asked_for() -> None:
    assert words("mem=false cpus_per_task=false", mem_mb=100) == ["--ntasks=1"]


def test_values_are_never_split() -> None:
    assert "--comment=a 'b' $c" in words({"comment": "a 'b' $c"})
