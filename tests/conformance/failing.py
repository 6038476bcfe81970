"""A file system below the job directories that fails now and then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.services.common import ServiceUnavailable
from tests.services.failing_files import build
from tests.services.require import unavailable

from .base import ConformanceBase
from .harness import Workflow

RUNS = int(os.environ.get("PIPEN_TEST_FAILING_RUNS", "2"))
"""How many runs each backend has, each with other errors."""


class FailingFiles(ConformanceBase):
    """Calls of the main process fail there, one of fifteen, as on a full disk or a bad network."""

    @pytest.mark.parametrize("seed", range(RUNS))
    def test_run_ends_as_without(self, workflow: Workflow, tmp_path: Path, seed: int) -> None:
        """No job is lost, none runs twice, each failure has its reason, and nothing is left."""
        try:
            library = build(tmp_path)
        except ServiceUnavailable as error:
            unavailable(error)
        workflow.snakefile(
            """
            rule all:
                input: expand("c{n}", n=range(4)), "run", "tried"
            rule a:
                output: "a{n}"
                shell: "echo a{wildcards.n} >> ran; echo {wildcards.n} > {output}"
            rule c:
                input: "a{n}"
                output: "c{n}"
                log: "c{n}.log"
                shell: "echo c{wildcards.n} >> ran; echo log > {log}; cat {input} > {output}"
            rule python:
                output: "run"
                run:
                    with open("ran", "a") as stream:
                        stream.write("run\\n")
                    open(output[0], "w").close()
            rule tried:
                output: "tried"
                retries: 1
                shell: "echo tried >> ran; echo why >&2; [ $(grep -c tried ran) = 2 ]; : > {output}"
            rule bad:
                output: "bad"
                shell: "echo bad >> ran; echo because >&2; exit 3"
            """
        )
        log = tmp_path / "failed.log"
        env = {
            "LD_PRELOAD": str(library),
            "PIPEN_FAIL_BELOW": "/.snakemake/pipen/",
            "PIPEN_FAIL_SEED": str(seed),
            "PIPEN_FAIL_ONE_IN": "15",
            "PIPEN_FAIL_LOG": str(log),
        }
        result = workflow.run("all", "bad", "--keep-going", env=env, timeout=240).failed()
        assert log.stat().st_size > 0
        bad = result.failure("bad")
        assert bad.message.startswith("the command failed, exit status 3")
        assert "because" in bad.text
        expected = [
            *(f"{rule}{n}" for rule in "ac" for n in range(4)),
            "run",
            "tried",
            "tried",
            "bad",
        ]
        assert sorted(workflow.lines("ran")) == sorted(expected), result.text
        for n in range(4):
            assert workflow.read(f"c{n}") == f"{n}\n"
        workflow.dry_run("all").has("Nothing to be done")
        assert list(workflow.job_root.glob(".events/*")) == []
        assert list(workflow.job_root.glob("*/*/job.record")) == []
        workflow.assert_nothing_runs()
