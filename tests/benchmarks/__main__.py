"""``python -m tests.benchmarks WHAT [--runs N] [--only PART …] [--json FILE]``."""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Sequence
from pathlib import Path

from . import container, local, sge, slurm, ssh
from .environments import ROOT
from .page import page
from .tables import Table, as_json, from_json, machine, show

_LOCAL_PARTS = ("independent", "unlimited", "chain", "xqute", "engine", "held")
_CONTAINER_PARTS = ("podman", "docker")
_SLURM_PARTS = ("independent", "copied", "chain", "held", "faults")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "what",
        choices=["local", "slurm", "sge", "ssh", "container", "page"],
        help="page makes all and writes docs/benchmarks.md",
    )
    parser.add_argument("--runs", type=int, default=5, help="repetitions of quick candidates")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        choices=sorted({*_LOCAL_PARTS, *_SLURM_PARTS, *_CONTAINER_PARTS}),
        help="make only these tables",
    )
    parser.add_argument("--json", type=Path, help="also write all single values here")
    parser.add_argument(
        "--from",
        dest="sources",
        type=Path,
        nargs="+",
        help="page: take the tables from files that --json has written; measure nothing",
    )
    parser.add_argument(
        "--conditions", default="", help="page: a sentence on what else the machine was doing"
    )
    options = parser.parse_args()
    # A shell starts background commands with SIGINT ignored, and Snakemake would inherit that;
    # SIGTERM must end the cluster too.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    facts, tables = machine(), []
    if options.sources:
        for source in options.sources:
            content = json.loads(source.read_text())
            facts = content["machine"]
            tables += from_json(content["tables"])
    else:
        if options.what in ("local", "page"):
            tables += local.measure(options.runs, options.only)
        if options.what in ("slurm", "page"):
            tables += slurm.measure(options.runs, options.only)
        if options.what in ("sge", "page"):
            tables += sge.measure(options.runs, options.only)
        if options.what in ("ssh", "page"):
            tables += ssh.measure(options.runs, options.only)
        if options.what in ("container", "page"):
            tables += container.measure(options.runs, options.only)
    show(tables)
    if options.json:
        _write_json(options.json, facts, tables)
    if options.what == "page":
        (ROOT / "docs" / "benchmarks.md").write_text(page(facts, tables, options.conditions))


def _write_json(path: Path, facts: dict[str, str], tables: Sequence[Table]) -> None:
    path.write_text(json.dumps({"machine": facts, "tables": as_json(tables)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
