"""The workflows that are run, as text."""

from __future__ import annotations

RESOURCES = "resources: mem_mb=500, runtime=10"
"""What a trivial job asks for: a second Snakemake on the node needs more than 150 MB."""


def independent(count: int, shell: str = "echo {wildcards.i} > {output}", more: str = "") -> str:
    """Return a workflow of jobs that do not depend on each other."""
    return f"""
rule all:
    input: expand("out/{{i}}.txt", i=range({count}))
rule one:
    output: "out/{{i}}.txt"
    {more}
    shell: {shell!r}
"""


PROFILE_WITH_COPIES = """
executor: pipen-slurm
latency-wait: 60
default-storage-provider: fs
shared-fs-usage:
  - persistence
  - software-deployment
  - sources
  - source-cache
local-storage-prefix: local
remote-job-local-storage-prefix: local/$SLURM_JOB_ID
"""
"""The profile that the documentation of snakemake-executor-plugin-slurm shows."""


def with_inputs(count: int, more: str = "") -> str:
    """Return a workflow of jobs that read a file and write two."""
    return f"""
rule all:
    input: expand("out/{{i}}.txt", i=range({count}))
rule one:
    input: "in.txt"
    output: "out/{{i}}.txt"
    log: "log/{{i}}.txt"
    {more}
    shell: "cat {{input}} > {{output}} 2> {{log}}"
"""


def chain(length: int, more: str = "") -> str:
    """Return a workflow in which each job needs the one before it."""
    return f"""
rule all:
    input: "out/{length - 1}.txt"
rule one:
    input: lambda w: f"out/{{int(w.i) - 1}}.txt" if int(w.i) else []
    output: "out/{{i}}.txt"
    {more}
    shell: "echo {{wildcards.i}} > {{output}}"
"""


def outputs(count: int) -> list[str]:
    """Return the files that either of them makes."""
    return [f"out/{number}.txt" for number in range(count)]
