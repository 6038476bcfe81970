"""The command line of a second Snakemake, as this Snakemake reads it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.cli import get_argument_parser, parse_args
from snakemake_interface_executor_plugins.utils import (
    TargetSpec,
    encode_target_jobs_cli_args,
    format_cli_arg,
)

from pipen_executors.executor import with_file_targets


def job(rule: str, value: str | None, *output: str) -> Any:
    wildcards = {} if value is None else {"w": value}
    spec = TargetSpec(rule, wildcards)
    return SimpleNamespace(
        rule=SimpleNamespace(name=rule),
        output=output,
        is_group=lambda: False,
        get_target_spec=lambda: [spec],
    )


def group(*members: Any) -> Any:
    specs = [spec for member in members for spec in member.get_target_spec()]
    return SimpleNamespace(jobs=members, is_group=lambda: True, get_target_spec=lambda: specs)


def targets_of(asked: Any) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """Return the files and the jobs that Snakemake would make."""
    jobs = format_cli_arg("--target-jobs", encode_target_jobs_cli_args(asked.get_target_spec()))
    words = shlex.split(with_file_targets(f"{jobs} --allowed-rules a b --cores 1", asked))
    _, read = parse_args(words)
    specs: Sequence[TargetSpec] = read.target_jobs or ()
    return list(read.targets), [(spec.rulename, dict(spec.wildcards_dict)) for spec in specs]


@pytest.mark.parametrize("value", ["plain", "it's", "a=b", "two words", "-x", "$(id)"])
def test_a_job_is_named_by_its_wildcards(value: str) -> None:
    assert targets_of(job("a", value, "out")) == ([], [("a", {"w": value})])


@pytest.mark.parametrize("name", ["a,b", "a=b,c=d", "two words,\nlines", "it's,$(id)"])
def test_with_a_comma_by_its_output(name: str) -> None:
    assert targets_of(job("a", name, f"{name}.out", "other")) == ([f"{name}.out"], [])


def test_an_absolute_path_stays_one() -> None:
    assert targets_of(job("a", "x,y", "/scratch/x,y"))[0] == ["/scratch/x,y"]


def test_members_of_a_group_are_named_in_the_same_way() -> None:
    members = group(job("a", "x,y", "x,y.out"), job("b", "z", "z.out"), job("all", None))
    assert targets_of(members) == (["x,y.out", "z.out", "all"], [])


def test_the_parser_is_the_one_that_reads_a_job() -> None:
    """It reads a comma as it is said to; where it does not, files are no longer needed."""
    spec = [TargetSpec("a", {"w": "x,y"})]
    text = format_cli_arg("--target-jobs", encode_target_jobs_cli_args(spec))
    with pytest.raises((SystemExit, ValueError)):
        get_argument_parser().parse_args(shlex.split(text))
