"""Choice of a partition from a file with limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipen_executors.exceptions import SettingError
from snakemake_executor_plugin_pipen_slurm.directives import sbatch_options
from snakemake_executor_plugin_pipen_slurm.partitions import choose, read_partitions

from .test_slurm_directives import spec

LIMITS = """
partitions:
  short:
    max_runtime: 60
    max_threads: 32
    max_mem_mb: 64000
  long:
    max_runtime: 7-00:00:00
    max_threads: 32
    max_mem_mb: 64000
  fat:
    max_runtime: 2d
    max_threads: 64
    max_mem_mb: 1T
  gpu:
    max_runtime: "1440"
    max_threads: 32
    max_gpu: 4
    available_gpu_models: [a100, h100]
  mpi:
    max_nodes: 16
    max_tasks: 512
    max_mpi_tasks: 512
    supports_mpi: true
    available_constraints: [ib]
  elsewhere:
    cluster: big
    max_runtime: 600
"""


@pytest.fixture
def limits(tmp_path: Path) -> Path:
    path = tmp_path / "partitions.yaml"
    path.write_text(LIMITS)
    return path


def chosen(path: Path, **asked: Any) -> str:
    job = spec(**asked)
    return choose(read_partitions(path, "--x"), job, sbatch_options(job))


@pytest.mark.parametrize(
    ("asked", "partition"),
    [
        ({"runtime": 30}, "short"),
        ({"runtime": 600}, "fat"),
        ({"runtime": 5000, "mem_mb": 1000}, "long"),
        ({"mem_mb": 100_000, "runtime": 10}, "fat"),
        ({"threads": 40, "runtime": 10}, "fat"),
        ({"cpus_per_task": 40, "runtime": 10}, "fat"),
        ({"gpu": 1, "runtime": 10}, "gpu"),
        ({"gres": "gpu:2", "runtime": 10}, "gpu"),
        ({"gpu": 1, "gpu_model": "h100", "runtime": 1440}, "gpu"),
        ({"mpi": "srun", "tasks": 256, "constraint": "ib", "nodes": 8}, "mpi"),
        ({"runtime": 30, "clusters": "big"}, "elsewhere"),
    ],
)
def test_partition_that_is_filled_best(limits: Path, asked: dict[str, Any], partition: str) -> None:
    assert chosen(limits, **asked) == partition


@pytest.mark.parametrize(
    "asked",
    [
        {"gpu": 5},
        {"gpu": 1, "gpu_model": "k80"},
        {"gres": "gpu:k80:1"},
        {"runtime": 60, "clusters": "nowhere"},
        {"runtime": 60_000, "threads": 99, "constraint": "none"},
    ],
)
def test_no_partition_takes_it(limits: Path, asked: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="none of the partitions short, long"):
        chosen(limits, **asked)


def test_first_of_equals(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("partitions:\n  b: {}\n  a: {}\n")
    assert chosen(path) == "b"


@pytest.mark.parametrize("key", ["cluster", "clusters", "slurm_cluster"])
def test_names_of_the_cluster(tmp_path: Path, key: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(f"partitions:\n  here: {{}}\n  there: {{{key}: big}}\n")
    assert chosen(path, cluster="big") == "there"
    assert chosen(path) == "here"


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("[", "cannot be read as YAML"),
        ("a: 1", "table 'partitions'"),
        ("partitions: {}", "table 'partitions'"),
        ("partitions: {p: {max_time: 1}}", "max_runtime"),
        ("partitions: {p: {max_runtime: soon}}", "a time such as"),
        ("partitions: {p: {max_threads: many}}", "a number"),
        ("partitions: {p: 3}", "table"),
    ],
)
def test_files_that_cannot_be_right(tmp_path: Path, text: str, right: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(SettingError) as raised:
        read_partitions(path, "--pipen-slurm-partition-config")
    assert "--pipen-slurm-partition-config" in str(raised.value)
    assert right in str(raised.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="No such file"):
        read_partitions(tmp_path / "none.yaml", "--pipen-slurm-partition-config")
