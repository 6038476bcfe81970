"""Compares executors with Snakemake's own on random workflows."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .backends import BACKENDS
from .compare import Difference
from .generator import plan_of
from .plan import Plan
from .render import render, shown
from .trial import Trial, shrunk


def main() -> int:
    """Run the seeds; return 1 if there is a difference."""
    arguments = _parser().parse_args()
    seeds = list(_seeds(arguments.seeds))
    if arguments.show:
        for seed in seeds:
            print(described(plan_of(seed)))
        return 0
    kept = Path(tempfile.gettempdir(), "pipen-differential-results")
    root = Path(tempfile.mkdtemp(prefix="pipen-differential-work-"))
    found: dict[int, list[Difference]] = {}
    with BACKENDS[arguments.executor]() as backend:
        trial = Trial(backend, root, kept, keep=arguments.keep)
        start = time.monotonic()
        with ThreadPoolExecutor(arguments.workers) as pool:
            for seed, differences in zip(seeds, pool.map(trial.of_seed, seeds), strict=True):
                if differences:
                    found[seed] = differences
                    print(f"== seed {seed}: {len(differences)} differences", flush=True)
                    for difference in differences[: arguments.most]:
                        print(_cut(str(difference)), flush=True)
        took = time.monotonic() - start
        for seed in list(found)[: arguments.shrink]:
            plan, differences = shrunk(plan_of(seed), trial)
            print(f"== seed {seed}, shrunk\n{described(plan)}")
            for difference in differences:
                print(_cut(str(difference)), flush=True)
    print(f"\n{len(seeds)} workflows on {arguments.executor} in {took:.0f} s, "
          f"{trial.failed_locally} of them fail; {len(found)} differ")  # fmt: skip
    kinds = Counter(_kind(difference) for per in found.values() for difference in per)
    for kind, number in kinds.most_common():
        print(f"{number:6} {kind}")
    return 1 if found else 0


def described(plan: Plan) -> str:
    """Return a workflow as somebody reads it who wants to know what is different."""
    options = " ".join(repr(word) for option in (*plan.options, plan.again) for word in option)
    return (
        f"{shown(render(plan))}\noptions: {options}\nenvironment: {plan.environment}\n"
        f"umask: {plan.umask:03o}, one job at a time: {plan.serial}\n"
    )


def _kind(difference: Difference) -> str:
    words = difference.where.split()
    return (
        words[0]
        if words[0] not in ("metadata", "place", "inherited")
        else f"{words[0]} … {words[-1]}"
    )


def _cut(text: str) -> str:
    return "\n".join(line if len(line) < 600 else line[:600] + "…" for line in text.splitlines())


def _seeds(text: str) -> Iterator[int]:
    for part in text.split(","):
        first, _, last = part.partition("-")
        if last:
            yield from range(int(first), int(last) + 1)
        elif "," in text or part.startswith("="):
            yield int(part.removeprefix("="))
        else:
            yield from range(int(first))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--executor", choices=BACKENDS, default="pipen-local")
    parser.add_argument(
        "--seeds", default="40", help="how many, or which: 300, 20-40, 3,17 or =5 for one"
    )
    parser.add_argument("--workers", type=int, default=3, help="workflows at a time")
    parser.add_argument("--shrink", type=int, default=0, help="how many to make smaller")
    parser.add_argument("--most", type=int, default=6, help="differences shown of each")
    parser.add_argument("--keep", action="store_true", help="keep the directories")
    parser.add_argument("--show", action="store_true", help="only show the workflows")
    return parser


if __name__ == "__main__":
    sys.exit(main())
