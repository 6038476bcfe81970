"""pipen-container beside the bare runtime and beside pipen's own container scheduler."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tests.services.containers import IMAGE, VOLUMES, Docker, Podman, Runtime

from . import workflows
from .environments import bin_of, variables, versions
from .runs import Candidate, Places, alternate
from .tables import Table, compare

_JOBS = 100
_AT_ONCE = 4
_BARE = """#!/bin/bash
mkdir -p out
seq 0 {last} | xargs -P{at_once} -I{{}} {bin} run --rm --network=host --pull=never {volumes} \\
    --volume "$PWD:$PWD" --workdir "$PWD" {image} /bin/bash -c 'echo {{}} > out/{{}}.txt'
"""
_XQUTE = """
import asyncio, os

from xqute import Xqute

async def main():
    here = os.getcwd()
    queue = Xqute(
        "container",
        forks={at_once},
        workdir="xqute",
        scheduler_opts=dict(
            bin={bin!r},
            image={image!r},
            volumes=[*{volumes!r}, f"{{here}}:{{here}}"],
            bin_args=["--network=host", "--pull=never"],
        ),
    )
    for i in range({count}):
        await queue.feed(["bash", "-c", f"echo {{i}} > {{here}}/out/{{i}}.txt"])
    await queue.run_until_complete()

os.makedirs("out", exist_ok=True)
asyncio.run(main())
"""


def _candidates(runtime: Runtime) -> list[Candidate]:
    def env(name: str) -> Mapping[str, str]:
        return {**variables(name), **runtime.env}

    words = {"bin": runtime.bin, "image": IMAGE, "at_once": _AT_ONCE}
    options = " ".join(f"--volume {volume}" for volume in VOLUMES)
    bare = _BARE.format(last=_JOBS - 1, volumes=options, **words)
    # xqute 2.2.1 cannot read a volume with ":ro".
    writable = [volume.removesuffix(":ro") for volume in VOLUMES]
    xqute = _XQUTE.format(count=_JOBS, volumes=writable, **words)
    pipen = [
        *("snakemake", "--quiet", "all", "--executor", "pipen-container"),
        *("--jobs", str(_AT_ONCE), "--pipen-container-bin", runtime.bin),
        *("--pipen-container-volumes", *VOLUMES, "--pipen-container-options", "network=host"),
        *("--pipen-container-image", IMAGE),
    ]
    return [
        Candidate("pipen-container", pipen, env("pipen")),
        Candidate(
            f"xargs -P{_AT_ONCE} {runtime.name} run --rm, no Snakemake",
            ["./run"],
            env("snakemake"),
            files={"run": bare},
        ),
        Candidate(
            "xqute 2.2.1, container scheduler",
            [str(bin_of("xqute") / "python"), "run.py"],
            env("xqute"),
            files={"run.py": xqute},
            runs=1,
        ),
    ]


def independent(runtime: Runtime, places: Places, runs: int) -> Table:
    """Measure trivial jobs that do not depend on each other, each in a container of its own."""
    workflow, outputs = workflows.independent(_JOBS), workflows.outputs(_JOBS)
    results = alternate(_candidates(runtime), workflow, outputs, places, runs)
    start = Candidate(
        "Snakemake's own start-up (dry run)",
        ["snakemake", "--quiet", "all", "--dry-run", "--cores", "1"],
        variables("snakemake"),
    )
    results |= alternate([start], workflow, [], places, runs)
    title = (
        f"{_JOBS} independent trivial jobs in containers of {runtime.name}, {_AT_ONCE} at a time"
    )
    return compare(f"container-{runtime.name}", title, results)


def measure(runs: int, only: Sequence[str] = ()) -> list[Table]:
    """Make the tables of pipen-container, or only those named."""
    kinds: Mapping[str, type[Runtime]] = {"podman": Podman, "docker": Docker}
    tables, releases = [], []
    with Places() as places:
        for name, kind in kinds.items():
            if only and name not in only:
                continue
            print(f"container: {name}", file=sys.stderr, flush=True)
            with kind() as runtime:
                tables.append(independent(runtime, places, runs))
                releases.append(runtime.run("--version").stdout.strip())
    shown = versions("pipen", "snakemake")
    words = ", ".join([*releases, *(f"{name} {version}" for name, version in shown.items())])
    note = f"Both as root, with overlay storage and the network of the machine; {words}."
    return [replace(table, notes=[*table.notes, note]) for table in tables]
