"""Snakemake's own test suite through an executor: one test here per test there.

The suite runs once, in a pytest process of its own with two workers, before the first of these
tests; each of them then reports what became of its upstream test. Without anything else said the
executor is pipen-local; ``SNAKEMAKE_SUITE_EXECUTOR`` names another, and
``SNAKEMAKE_SUITE_ARGUMENTS`` gives its settings as Snakemake's command line takes them.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from .backend import Backend
from .driver import Plan, first_error
from .source import SuiteError, upstream_tests
from .verdict import Judgement, Kind, Known, examine, load_known

EXECUTOR = os.environ.get("SNAKEMAKE_SUITE_EXECUTOR", "pipen-local")
ARGUMENTS = os.environ.get("SNAKEMAKE_SUITE_ARGUMENTS", "")

#: The first of these tests waits for the whole suite, which has time limits of its own.
pytestmark = [pytest.mark.snakemake_suite, pytest.mark.slow, pytest.mark.timeout(0)]


@dataclass(frozen=True)
class Examination:
    """The suite's run, or why there was none."""

    known: Known
    judgements: Mapping[str, Judgement]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test per upstream test; their names come from the sdist."""
    if "upstream" not in metafunc.fixturenames:
        return
    # Without this a quick run would download the sdist only to leave all its tests out.
    if "not snakemake_suite" in metafunc.config.option.markexpr:
        metafunc.parametrize("upstream", [])
        return
    try:
        names = upstream_tests()
    except SuiteError as error:
        names = [str(error)]
    metafunc.parametrize("upstream", names)


@pytest.fixture(scope="session")
def examination(request: pytest.FixtureRequest) -> Examination:
    """Run those upstream tests that this session asks for."""
    wanted = {
        str(item.callspec.params["upstream"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == test_upstream.__name__
    }
    try:
        known = load_known(EXECUTOR)
        backend = Backend(EXECUTOR, tuple(shlex.split(ARGUMENTS)))
        judgements = examine(backend, Plan(only=wanted), known)
    except SuiteError as error:
        if os.environ.get("PIPEN_TEST_REQUIRE_ALL"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    return Examination(known, judgements)


def test_listed_names_exist() -> None:
    """A test that upstream renamed or dropped must not stay in known.toml unnoticed."""
    try:
        known, names = load_known(EXECUTOR), upstream_tests()
    except SuiteError as error:
        pytest.skip(str(error))
    assert not ({*known.fails, *known.omitted} - set(names))


def test_upstream(upstream: str, examination: Examination) -> None:
    if upstream in examination.known.omitted:
        pytest.skip(f"left out: {examination.known.omitted[upstream]}")
    judgement = examination.judgements.get(upstream)
    if judgement is None:
        pytest.fail("was not run", pytrace=False)
    detail = judgement.outcome.detail
    match judgement.kind:
        case Kind.PASSED:
            pass
        case Kind.SKIPPED:
            pytest.skip(first_error(detail))
        case Kind.ENVIRONMENT:
            pytest.skip(f"fails with the local executor too: {first_error(detail)}")
        case Kind.KNOWN:
            pytest.xfail(examination.known.fails[upstream])
        case Kind.STALE:
            pytest.fail("passes, but known.toml lists it as failing", pytrace=False)
        case Kind.REGRESSION:
            pytest.fail(f"passes with the local executor, fails here:\n{detail}", pytrace=False)
