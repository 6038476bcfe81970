"""Benchmark files of direct jobs, in Snakemake's own format, from what the wrapper measured."""

from __future__ import annotations

import os
from typing import Any

from .jobdir import JobDir
from .meter import FILE, read_usage


def why_not_measured(job: Any) -> str | None:
    """Return why the benchmark of a job needs Snakemake beside the job; None if it does not."""
    if (job.benchmark_repeats or 1) > 1:
        return "a benchmark that repeats the command (without repeat() it would run directly)"
    return None


def write_benchmark(
    job: Any, workflow: Any, directory: JobDir, path: str, file: str = FILE
) -> None:
    """Write the benchmark file of a job that has succeeded.

    Parameters
    ----------
    job, workflow
        The job and its workflow.
    path
        Where the benchmark file is to lie.
    directory, file
        Its job directory, and the file in there that holds what was measured.

    Raises
    ------
    OSError
        If it cannot be written, or nothing was measured.
    """
    from snakemake.benchmark import BenchmarkRecord, write_benchmark_records

    usage = read_usage(directory.read(file))
    if usage is None:
        raise OSError(f"{directory.file(file)} is not complete")
    record = BenchmarkRecord(
        running_time=usage.seconds,
        max_rss=usage.rss,
        max_vms=usage.vms,
        max_uss=usage.uss,
        max_pss=usage.pss,
        io_in=usage.read,
        io_out=usage.written,
        cpu_usage=100 * usage.load,  # per cent times seconds, as psutil counts
        cpu_time=usage.cpu,
        input=job.input,
    )
    for name, value in (
        ("jobid", job.jobid),
        ("rule_name", job.rule.name),
        ("wildcards", job.wildcards),
        ("params", job.params),
        ("resources", job.resources),
        ("threads", job.threads),
    ):
        setattr(record, name, value)  # its constructor wraps them into tuples
    record.data_collected = usage.sampled
    record.process_gone = True
    extended = workflow.output_settings.benchmark_extended
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    write_benchmark_records([record], path, extended)
