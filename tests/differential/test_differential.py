"""Each executor leaves what Snakemake's own leaves, on random workflows."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .__main__ import described
from .backends import BACKENDS
from .compare import ALLOWED
from .generator import plan_of
from .trial import Trial, shrunk

_MARKS = {
    "pipen-local": (),
    "pipen-slurm": (pytest.mark.slurm,),
    "pipen-sge": (pytest.mark.sge, pytest.mark.rest),
    "pipen-container": (pytest.mark.container, pytest.mark.rest),
    "pipen-container-docker": (pytest.mark.container, pytest.mark.rest),
    "pipen-ssh": (pytest.mark.ssh, pytest.mark.rest),
    "pipen-ssh-apart": (pytest.mark.ssh, pytest.mark.rest),
}
_PAGE = Path(__file__).parents[2] / "docs" / "differences.md"
_ALWAYS = 12
_OFTEN = 300


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the results of the local executor are kept, for all workers of a session."""
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    return Path(tempfile.gettempdir(), f"pipen-differential-{session}")


def _differ(name: str, first: int, last: int, root: Path, kept: Path) -> str:
    """Return what is different on some seeds, each with a workflow that shows it."""
    texts: list[str] = []
    with BACKENDS[name]() as backend:
        trial = Trial(backend, root, kept)
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(trial.of_seed, range(first, last)))
        for seed, differences in zip(range(first, last), found, strict=True):
            if differences and len(texts) < 3:
                plan, left = shrunk(plan_of(seed), trial)
                told = "\n".join(map(str, left or differences))
                texts.append(f"seed {seed}:\n{described(plan)}\n{told}")
            elif differences:
                texts.append(f"seed {seed} differs too: {differences[0]}")
    return "\n\n".join(texts)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=_MARKS[name]) for name in ("pipen-local", "pipen-slurm")]
)
def test_some_workflows(name: str, tmp_path: Path, kept: Path) -> None:
    different = _differ(name, 0, _ALWAYS, tmp_path, kept)
    assert not different, different


@pytest.mark.rest
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("name", [pytest.param(name, marks=_MARKS[name]) for name in BACKENDS])
def test_many_workflows(name: str, tmp_path: Path, kept: Path) -> None:
    many = 100 if "ssh" in name or name.endswith("docker") else _OFTEN
    different = _differ(name, 0, many, tmp_path, kept)
    assert not different, different


def test_a_seed_is_one_workflow() -> None:
    assert plan_of(7) == plan_of(7)
    assert plan_of(7) != plan_of(8)


def test_what_may_differ_is_documented() -> None:
    page = " ".join(_PAGE.read_text().split())
    missing = [allowed.reason for allowed in ALLOWED if allowed.reason not in page]
    assert not missing


def test_smaller_workflows_have_less() -> None:
    plan = plan_of(3)
    assert all(less != plan for less in plan.smaller())
