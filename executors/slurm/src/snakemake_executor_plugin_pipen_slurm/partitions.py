"""Choice of a partition for rules that name none, from a file with the partitions' limits.

The file is the one that snakemake-executor-plugin-slurm reads (``partition_config``)::

    partitions:
      short:
        max_runtime: 60
        max_threads: 32
      gpu:
        cluster: big
        max_gpu: 4
        available_gpu_models: [a100]

Among the partitions that can take a job, the one whose limits it fills best is chosen.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import inf
from pathlib import Path
from types import NoneType
from typing import Any

import yaml

from pipen_executors.exceptions import SettingError
from pipen_executors.spec import JobSpec
from pipen_executors.units import parse_megabytes, parse_seconds


@dataclass(frozen=True)
class Partition:
    """A partition and its limits; what is not said is not limited.

    ``max_runtime`` is in minutes, memory in megabytes.
    """

    name: str
    cluster: str | None = None
    max_runtime: float = inf
    max_mem_mb: float = inf
    max_mem_mb_per_cpu: float = inf
    max_cpus_per_task: float = inf
    max_threads: float = inf
    max_nodes: float = inf
    max_tasks: float = inf
    max_tasks_per_node: float = inf
    max_gpu: float = 0
    available_gpu_models: Sequence[str] = field(default=())
    max_cpus_per_gpu: float = inf
    supports_mpi: bool = True
    max_mpi_tasks: float = inf
    available_constraints: Sequence[str] = field(default=())

    def fit(self, spec: JobSpec, options: Mapping[str, Any]) -> float | None:
        """Return how well a job fills the limits; None if it goes beyond one."""
        if (options.get("clusters") or None) != self.cluster:
            return None
        given = spec.resources.extra
        gpus, model = asked_gpus(spec)
        constraints = {c.strip() for c in str(given.get("constraint") or "").split(",") if c}
        if (
            (given.get("mpi") and not self.supports_mpi)
            or (model and self.available_gpu_models and model not in self.available_gpu_models)
            or (self.available_constraints and constraints - set(self.available_constraints))
        ):
            return None
        score = -1.0 if self.max_gpu and not gpus else 0.0
        for wanted, limit in self._demands(spec, options):
            if wanted > limit:
                return None
            score += wanted / limit
        return score

    def _demands(self, spec: JobSpec, options: Mapping[str, Any]) -> Iterator[tuple[float, float]]:
        resources, given = spec.resources, spec.resources.extra
        tasks = float(given.get("tasks") or 0)
        unlimited = resources.runtime == 0
        for wanted, limit in (
            (inf if unlimited else resources.runtime, self.max_runtime),
            (_megabytes(options.get("mem")), self.max_mem_mb),
            (_megabytes(options.get("mem-per-cpu")), self.max_mem_mb_per_cpu),
            (options.get("cpus-per-task"), self.max_cpus_per_task),
            (options.get("cpus-per-gpu"), self.max_cpus_per_gpu),
            (max(resources.threads, options.get("cpus-per-task") or 0), self.max_threads),
            (_least_nodes(options.get("nodes")), self.max_nodes),
            (tasks, self.max_tasks),
            (given.get("tasks_per_node"), self.max_tasks_per_node),
            (tasks if given.get("mpi") else None, self.max_mpi_tasks),
            (asked_gpus(spec)[0], self.max_gpu or 0.5),
        ):
            if wanted and limit != inf:
                yield float(wanted), limit


def asked_gpus(spec: JobSpec) -> tuple[int, str]:
    """Return how many GPUs a job asks for, as ``gpu`` or within ``gres``, and the model."""
    if spec.resources.gpus:
        return spec.resources.gpus, str(spec.resources.extra.get("gpu_model") or "")
    for item in str(spec.resources.extra.get("gres") or "").split(","):
        name, *more = item.strip().split(":")
        if name == "gpu":
            count = int(more.pop()) if more and more[-1].isdigit() else 1
            return count, more[0] if more else ""
    return 0, ""


def _megabytes(option: Any) -> int:
    """Read what an option asks for; 0 where it asks for nothing, or says it as only sbatch can."""
    with contextlib.suppress(ValueError):
        return parse_megabytes(option) if option else 0
    return 0


def _least_nodes(option: Any) -> int:
    """Return the smaller number of a range of nodes."""
    match = re.match(r"\d+", str(option or ""))
    return int(match[0]) if match else 0


def _minutes(value: Any) -> float:
    text = str(value).strip()
    return float(text) if text.replace(".", "", 1).isdigit() else parse_seconds(text) / 60


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("expected a number")
    return value


_READERS: Mapping[str, Callable[[Any], Any]] = {
    **{f.name: _number for f in fields(Partition) if f.type == "float"},
    "max_runtime": _minutes,
    "max_mem_mb": parse_megabytes,
    "max_mem_mb_per_cpu": parse_megabytes,
}


def read_partitions(path: Path, where: str) -> list[Partition]:
    """Read a file with limits.

    Parameters
    ----------
    path
        The file.
    where
        The setting that named it, for error messages.

    Raises
    ------
    SettingError
        Naming the setting, and the partition and key that are wrong.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise SettingError(where, str(path), f"it cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise SettingError(where, str(path), f"it cannot be read as YAML ({error})") from None
    tables = content.get("partitions") if isinstance(content, Mapping) else None
    if not isinstance(tables, Mapping) or not tables:
        raise SettingError(where, str(path), "it has no table 'partitions'")
    known = {f.name for f in fields(Partition)} - {"name"}
    partitions = []
    for name, table in tables.items():
        values: dict[str, Any] = {}
        if not isinstance(table, (Mapping, NoneType)):
            raise SettingError(f"{where}: partition {name}", table, "expected a table of limits")
        for key, value in (table or {}).items():
            if key in ("clusters", "slurm_cluster"):
                key = "cluster"
            if key not in known:
                problem = f"expected one of {', '.join(sorted(known))}"
                raise SettingError(f"{where}: key in partition {name}", key, problem)
            try:
                values[key] = _READERS[key](value) if key in _READERS else value
            except ValueError as error:
                raise SettingError(f"{where}: {key} of {name}", value, str(error)) from None
        partitions.append(Partition(name=str(name), **values))
    return partitions


def choose(partitions: Sequence[Partition], spec: JobSpec, options: Mapping[str, Any]) -> str:
    """Return the partition that fits a job best.

    Raises
    ------
    SettingError
        If none can take it.
    """
    fits = [(partition.fit(spec, options), partition.name) for partition in partitions]
    possible = [(fit, name) for fit, name in fits if fit is not None]
    if not possible:
        asked = {
            "threads": spec.resources.threads,
            "mem_mb": spec.resources.mem_mb,
            "runtime": spec.resources.runtime,
            "gpu": spec.resources.gpus,
        }
        shown = ", ".join(f"{name}={value}" for name, value in asked.items() if value)
        raise SettingError(
            f"what rule {spec.rule} asks for",
            shown,
            f"none of the partitions {', '.join(n for _, n in fits)} can run that",
        )
    best = max(fit for fit, _ in possible)
    return next(name for fit, name in possible if fit == best)
