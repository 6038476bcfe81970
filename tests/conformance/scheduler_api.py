"""The scheduler API of pipen's reference, and pipen itself, without Snakemake."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from .base import ConformanceBase
from .harness import PATIENCE, Workflow

_METHODS = r"""
import asyncio, json, os, sys, threading
from xqute import JobStatus
from pipen_executors import get_scheduler

RUNNING = (JobStatus.SUBMITTED, JobStatus.RUNNING)


async def until(predicate, scheduler, jobs):
    for _ in range(600):
        await scheduler.check_all_done(jobs, 0)
        if predicate():
            return
        await asyncio.sleep(0.1)
    raise AssertionError([job._status for job in jobs])


async def main():
    options = json.loads(sys.argv[2])
    scheduler = get_scheduler(sys.argv[1])(
        workdir="jobs",
        forks=3,
        error_strategy="retry",
        num_retries=1,
        prescript="export PRE=before",
        postscript='echo "$rc" > "$XQUTE_JOB_METADIR/post"',
        jobname_prefix="api",
        **options,
    )
    given = {"VAR": "a b"}
    words = ["bash", "-c", 'echo "$PRE|$VAR|$XQUTE_JOB_INDEX|$1"', "-", 'it\'s `x` "$y" \\']
    good = await scheduler.create_job(0, words, given)
    bad = await scheduler.create_job(1, "bash -c 'echo to stderr >&2; exit 7'")
    slow = [await scheduler.create_job(index, "sleep 600") for index in (2, 3, 4)]
    assert given == {"VAR": "a b"}, "the variables of the caller are the caller's"
    assert [job.index for job in (good, bad)] == [0, 1] and good.metadir.is_dir()
    assert good._status == JobStatus.INIT and await good.get_rc() == -9

    # The script, before anything runs.
    assert scheduler.jobcmd_shebang(good).startswith(("/bin/bash", "/"))
    for part in (scheduler.jobcmd_init, scheduler.jobcmd_prep, scheduler.jobcmd_end):
        assert isinstance(part(good), str)
    assert "export PRE=before" in scheduler.wrap_job_script(good)
    path = await scheduler.wrapped_job_script(good)
    assert path.is_file() and path.parent == good.metadir
    for job in (good, slow[0]):
        assert not await scheduler.job_is_running(job)
        assert not await scheduler.job_is_submitted_or_running(job)
        assert not await scheduler.job_fails_before_running(job)

    # Submissions, counts, ends, a retry.
    jobs = [good, bad, slow[0]]
    await asyncio.gather(*map(scheduler.submit_job_and_update_status, jobs))
    assert all(job._status == JobStatus.SUBMITTED for job in jobs)
    assert await scheduler.count_running_jobs([*jobs, slow[1]]) <= 3
    assert await scheduler.job_is_submitted_or_running(slow[0])
    assert await scheduler.job_is_running(slow[0])
    assert not await scheduler.job_fails_before_running(slow[0])
    assert not await scheduler.check_all_done(jobs, 0)
    await until(
        lambda: good._status == JobStatus.FINISHED
        and bad._status == JobStatus.FAILED
        and bad.trial_count == 1
        and slow[0]._status == JobStatus.RUNNING,
        scheduler,
        jobs,
    )
    assert good.stdout_file.read_text() == 'before|a b|0|it\'s `x` "$y" \\\n'
    assert (good.metadir / "post").read_text() == "0\n"
    assert await good.get_rc() == 0 and await bad.get_rc() == 7
    kept = (bad.retry_dir / "0" / "job.stderr").read_text()
    assert kept == "to stderr\n", kept
    assert await scheduler.count_running_jobs(jobs) == 1
    await scheduler.retry_job(bad)
    assert bad.trial_count == 2 and bad._status == JobStatus.SUBMITTED
    await until(lambda: bad._status == JobStatus.FAILED, scheduler, [bad, slow[0]])

    # A submission alone, and three ways to end jobs.
    jid = await scheduler.submit_job(slow[1])
    assert str(jid) == slow[1].jid_file.read_text()
    assert await scheduler.job_is_running(slow[1])
    await scheduler.kill_job(slow[1])
    assert not await scheduler.job_is_running(slow[1])
    await scheduler.kill_job_and_update_status(slow[0])
    assert slow[0]._status == JobStatus.FINISHED and await slow[0].get_rc() != 0
    assert not await scheduler.job_is_running(slow[0])
    await scheduler.submit_job_and_update_status(slow[2])
    await scheduler.kill_running_jobs([good, bad, slow[2]])
    assert slow[2]._status == JobStatus.FINISHED
    assert good._status == JobStatus.FINISHED and bad._status == JobStatus.FAILED

    # Statuses set by hand.
    await scheduler.transition_job_status(
        good, JobStatus.FAILED, old_status=JobStatus.RUNNING, rc="9", error_msg="so it is"
    )
    assert await good.get_rc() == 9 and "so it is" in good.stderr_file.read_text()
    assert not [one for one in threading.enumerate() if one.name == "pipen-engine"]


asyncio.run(main())
print("all methods tried")
"""

_PIPELINE = r"""
import json, sys
from pathlib import Path
from pipen import Pipen, Proc


class Numbers(Proc):
    input = "x:var"
    input_data = [0, 1, 2]
    output = "out:file:{{in.x}}.txt"
    script = "echo ran >> $PWD/ran.{{in.x}}; echo {{in.x}} > {{out.out}}"


class Doubled(Proc):
    requires = Numbers
    input = "of:file"
    output = "out:file:{{in.of.stem}}.txt"
    script = "echo $((2 * $(cat {{in.of}}))) > {{out.out}}"


class Together(Proc):
    requires = Doubled
    input = "all:files"
    input_data = lambda channel: [list(channel.iloc[:, 0])]
    output = "out:file:all.txt"
    script = "cat {% for one in in_['all'] %}{{one}} {% endfor %} > {{out.out}}"


pipeline = Pipen(
    name="Conformance",
    scheduler=sys.argv[1],
    scheduler_opts={**json.loads(sys.argv[2]), "cwd": str(Path.cwd())},
    forks=3,
    outdir="out",
    workdir="jobs",
    loglevel="debug",
).set_starts(Numbers)
assert pipeline.run(), "the pipeline has failed"
(result,) = Path("out").glob("Together/all.txt")
print("result:", *result.read_text().split())
"""


class SchedulerApi(ConformanceBase):
    """What the classes for pipen do, called as pipen's reference has it."""

    def api_options(self) -> Mapping[str, Any]:
        """Return the backend's settings as ``scheduler_opts``."""
        prefix = self.backend.flag("")
        options: dict[str, Any] = {}
        values: list[str] = []
        for argument in self.backend.arguments:
            if argument.startswith(prefix):
                values = options[argument.removeprefix(prefix).replace("-", "_")] = []
            else:
                values.append(argument)
        for pair in options.pop("options", ()):
            name, _, value = pair.partition("=")
            options[name] = [value]
        several = ("servers", "volumes", "mount", "bin_args")
        return {name: v if name in several else v[0] for name, v in options.items()}

    def run_script(self, workflow: Workflow, script: str, scheduler: str) -> str:
        """Run Python where Snakemake would run; return what it prints."""
        workflow.file("script.py", script)
        argv = [sys.executable, "script.py", scheduler, json.dumps(self.api_options())]
        done = subprocess.run(
            argv,
            cwd=workflow.dir,
            env={**workflow.environment(), "XQUTE_LOG_LEVEL": "DEBUG"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=2 * PATIENCE * self.backend.slowness,
            start_new_session=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def test_every_method_of_the_scheduler_api(self, workflow: Workflow) -> None:
        said = self.run_script(workflow, _METHODS, self.backend.scheduler)
        assert "all methods tried" in said
        workflow.assert_nothing_runs()

    @pytest.mark.slow
    def test_a_pipeline_of_pipen(self, workflow: Workflow) -> None:
        """By name, with three processes; the second run finds everything in pipen's cache."""
        name = f"pipen-executors-{self.backend.scheduler}"
        for _ in range(2):
            said = self.run_script(workflow, _PIPELINE, name)
            assert "result: 0 2 4" in said
        assert [workflow.lines(f"ran.{x}") for x in range(3)] == [["ran"]] * 3
