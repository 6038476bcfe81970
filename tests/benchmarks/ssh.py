"""pipen-ssh beside GNU parallel and Snakemake's local executor, on the tests' real sshd."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace

from tests.services.packages import ensure_debian_packages
from tests.services.ssh import SshHosts

from . import workflows
from .environments import variables, versions
from .runs import Candidate, Places, alternate
from .tables import Table, compare

_SLOTS = 4
_UNLIMITED = ("--max-jobs-per-timespan", "10000/1s")

_PARALLEL = """#!/bin/bash
mkdir -p out
exec parallel --will-cite {more} --ssh {ssh} --sshlogin {logins} --workdir "$PWD" \\
    'echo {{}} > out/{{}}.txt' ::: {{0..199}}
"""


def _pipen(hosts: SshHosts, *arguments: str) -> list[str]:
    servers = [
        f"{name},slots={_SLOTS},workdir={hosts.base}/{name}/files" for name in hosts.machines
    ]
    own = ["--pipen-ssh-servers", *servers, "--pipen-ssh-ssh-config", str(hosts.config)]
    return ["snakemake", "--quiet", "all", "--executor", "pipen-ssh", *own, *arguments]


def _parallel(hosts: SshHosts, *more: str) -> str:
    return _PARALLEL.format(
        more=" ".join(more),
        ssh=shlex.quote(f"ssh -F {hosts.config}"),
        logins=",".join(f"{_SLOTS}/{name}" for name in hosts.machines),
    )


def independent(hosts: SshHosts, runs: int, places: Places) -> Table:
    """Measure 200 trivial jobs on two machines of four slots."""
    dry = ["snakemake", "--quiet", "all", "--cores", "8", "--dry-run"]
    candidates = [
        Candidate(
            "parallel --sshlogin",
            ["./run"],
            variables("pipen"),
            files={"run": _parallel(hosts)},
        ),
        Candidate(
            "parallel --sshlogin, -M (one connection each)",
            ["./run"],
            variables("pipen"),
            files={"run": _parallel(hosts, "-M")},
            runs=1,  # what it leaves of its connections is in the way of the next
        ),
        Candidate("pipen-ssh", _pipen(hosts, "--jobs", "200"), variables("pipen")),
        Candidate(
            f"pipen-ssh with {' '.join(_UNLIMITED)}",
            _pipen(hosts, "--jobs", "200", *_UNLIMITED),
            variables("pipen"),
        ),
        Candidate("Snakemake's own start-up (dry run)", dry, variables("pipen")),
    ]
    expected = workflows.outputs(200)
    results = alternate(
        candidates[:-1], workflows.independent(200), expected, places, runs
    ) | alternate(candidates[-1:], workflows.independent(200), [], places, runs)
    title = "200 independent trivial jobs, on two machines with four slots each"
    note = "Both machines are this one, behind an sshd each; a shared file system."
    return compare("ssh-independent", title, results, [note])


def chained(hosts: SshHosts, runs: int, places: Places) -> Table:
    """Measure a chain of 10 trivial jobs."""
    candidates = [
        Candidate(
            "Snakemake's local executor",
            ["snakemake", "--quiet", "all", "--cores", "8"],
            variables("pipen"),
        ),
        Candidate("pipen-ssh", _pipen(hosts, "--jobs", "8"), variables("pipen")),
        Candidate(
            "pipen-ssh, files sent and fetched",
            _pipen(hosts, "--jobs", "8", "--pipen-ssh-staging", "sftp"),
            variables("pipen"),
        ),
    ]
    results = alternate(candidates, workflows.chain(10), workflows.outputs(10), places, runs)
    return compare("ssh-chain", "A chain of 10 trivial jobs", results)


def measure(runs: int, only: Sequence[str] = ()) -> list[Table]:
    """Make all tables of pipen-ssh, or only those named."""
    ensure_debian_packages(["parallel"])
    parts = {"independent": independent, "chain": chained}
    tables = []
    with SshHosts() as hosts, Places() as places:
        for name, part in parts.items():
            if not only or name in only:
                print(f"ssh: {name}", file=sys.stderr, flush=True)
                tables.append(part(hosts, runs, places))
    shown = versions("pipen", "snakemake")
    words = ", ".join(f"{name} {version}" for name, version in shown.items())
    return [replace(table, notes=[*table.notes, f"Versions: {words}."]) for table in tables]
