"""Command line: ``python -m tests.snakemake_suite --executor pipen-local``."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections import Counter

from .backend import Backend
from .driver import TEST_TIMEOUT, Outcome, Plan, first_error
from .source import SuiteError, snakemake_version
from .verdict import BAD, Kind, Known, examine, load_known


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.snakemake_suite", description=__doc__)
    parser.add_argument("--executor", required=True, help="executor under test")
    parser.add_argument(
        "--arguments",
        default="",
        help="its settings, as snakemake takes them: --arguments='--pipen-slurm-partition debug'",
    )
    parser.add_argument("-n", "--workers", type=int, default=2, help="tests side by side (2)")
    parser.add_argument("-k", "--keyword", default="", help="only matching tests (as in pytest)")
    parser.add_argument("--timeout", type=int, default=TEST_TIMEOUT, help="seconds for one test")
    parser.add_argument("--nodes", type=int, help="jobs at once on an executor that is not local")
    parser.add_argument("--quiet", action="store_true", help="do not show pytest's own output")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the suite and say what came out.

    Returns
    -------
    int
        Exit status: 0 if the executor passes, 1 if not, 2 if the suite could not be run.
    """
    options = parse(argv)
    run = {} if options.nodes is None else {"nodes": options.nodes}
    backend = Backend(options.executor, tuple(shlex.split(options.arguments)), run)
    plan = Plan(keyword=options.keyword, workers=options.workers, timeout=options.timeout)
    start = time.monotonic()
    try:
        known = load_known(backend.executor)
        judgements = list(examine(backend, plan, known, show=not options.quiet).values())
    except SuiteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for one in judgements:
        if one.kind is Kind.REGRESSION:
            print(f"\n=== {one.outcome.test} ===\n{one.outcome.detail}")
    for kind in Kind:
        if kind is not Kind.PASSED:
            _show(kind, [one.outcome for one in judgements if one.kind is kind], known)
    slowest = sorted(judgements, key=lambda one: -one.outcome.seconds)[:5]
    print("\nslowest:", ", ".join(f"{o.outcome.test} {o.outcome.seconds:.0f} s" for o in slowest))
    redirected = sum(one.outcome.redirected > 0 for one in judgements)
    print(
        f"Snakemake {snakemake_version()}, executor {backend.executor}: "
        f"{len(judgements)} tests in {time.monotonic() - start:.0f} s, "
        f"{redirected} of them sent workflows to it"
    )
    counts = Counter(one.kind for one in judgements)
    print("; ".join(f"{counts[kind]} {kind}" for kind in Kind if counts[kind]))
    return 1 if any(one.kind in BAD for one in judgements) else 0


def _show(kind: Kind, outcomes: list[Outcome], known: Known) -> None:
    if outcomes:
        print(f"\n{kind}:")
    for outcome in sorted(outcomes, key=lambda one: one.test):
        reason = known.fails.get(outcome.test) or first_error(outcome.detail)
        print(f"  {outcome.test}: {reason}")


if __name__ == "__main__":
    sys.exit(main())
