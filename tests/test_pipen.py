"""pipen: the conformance suite through it, profiles, mixing, third-party schedulers."""

from __future__ import annotations

import os
import signal
import tempfile
from itertools import groupby
from pathlib import Path

import pytest

from .conformance.base import ConformanceBase
from .conformance.cancelling import Cancelling
from .conformance.ending import Failures, Success
from .conformance.harness import Backend, Workflow, wait_for
from .conformance.hooking import Hooks
from .conformance.resuming import FOUR_RULES, Resuming
from .conformance.settings import (
    ONE_RULE,
    BadSettings,
    Execution,
    GoodSettings,
    is_refused,
)
from .conformance.storing import Storage
from .conformance.strategies import Halt, KeepGoing, Retries
from .third_party import install

# Tables of whoever runs the tests stay out.
HOMELESS = {"HOME": f"{tempfile.gettempdir()}/pipen-tests-home"}
"""A home of no user's: whatever is run may make it."""
BACKEND = Backend(
    "pipen",
    # Without a limit of its own, jobs on this machine are as many as it has processors.
    arguments=("--pipen-scheduler", "local", "--pipen-forks", "50"),
    environment=HOMELESS,
    drives="local",
)


@pytest.mark.slow
class TestPipenOnLocal(
    Success,
    Failures,
    Retries,
    KeepGoing,
    Halt,
    Cancelling,
    Hooks,
    BadSettings,
    GoodSettings,
    Execution,
    Resuming,
    Storage,
):
    """With pipen-local's scheduler: all in which this executor has a part of its own."""

    __test__ = True
    backend = BACKEND

    def test_forks_workdir_and_profile(self, workflow: Workflow) -> None:
        """Overridden: in a directory that is given, each lane has one of its own."""
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                shell: "touch {output}"
            """
        )
        workflow.run("--pipen-workdir", "$WHERE/jobs", env={"WHERE": str(workflow.dir)}).ok()
        assert len(list(workflow.path("jobs/local/a").iterdir())) == 1
        assert not workflow.jobs("a")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a third-party scheduler is installed."""
    return install(tmp_path_factory.mktemp("site"))


class TestThirdParty(ConformanceBase):
    """A package with a scheduler class as pipen's documentation has it."""

    __test__ = True
    backend = Backend("pipen", drives="mysched", environment=HOMELESS)

    @pytest.fixture(autouse=True)
    def on_path(self, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONPATH", str(site))

    @pytest.mark.parametrize(
        "name", ["mysched", "mysched_class", "xqute_only", "pipen_mysched:MyScheduler"]
    )
    def test_by_name(self, workflow: Workflow, name: str) -> None:
        workflow.snakefile(
            """
            rule all:
                input: expand("{n}.out", n=range(3)), "py.out"
            rule a:
                output: "{n}.out"
                threads: 2
                shell: "echo {wildcards.n} {threads} > {output}"
            rule py:
                output: "py.out"
                run:
                    open(output[0], "w").write("python")
            """
        )
        result = workflow.run("--pipen-scheduler", name).ok()
        assert [workflow.read(f"{n}.out") for n in range(3)] == ["0 2\n", "1 2\n", "2 2\n"]
        result.has("Plugin broken_hooks", "is skipped").lacks("of an xqute plugin raised")
        root = workflow.job_root.parent / name.replace(":", ".")
        jids = [path.read_text() for path in root.glob("*/*/job.jid")]
        assert len(jids) == 4
        assert all(jid.startswith("ticket-") for jid in jids)
        workflow.run("--pipen-scheduler", name).ok().has("Nothing to be done")
        workflow.assert_nothing_runs()

    def test_its_own_methods_are_used(self, workflow: Workflow) -> None:
        """``init_proc`` with a proc, ``post_init``, options, the wrapper's first lines."""
        workflow.snakefile(
            """
            rule all:
                input: "a.out", "b.out"
            rule a:
                output: "a.out"
                shell: "echo $FROM_MYSCHED > {output}"
            rule b:
                output: "b.out"
                resources: pipen_options="queue=long"
                shell: "touch {output}"
            """
        )
        workflow.file(
            ".pipen.toml",
            """
            [house]
            scheduler = "mysched"
            [house.scheduler_opts]
            color = "red"
            queue = "short"
            level = 3
            """,
        )
        workflow.run("--pipen-profile", "house").ok()
        assert int(workflow.read("a.out")) in (0, 1)
        root = workflow.job_root.parent / "mysched@house"
        name, pipeline, outdir, workdir, ready, color = (root / "init_proc").read_text().split()
        assert (name, pipeline, ready, color) == ("mysched@house", "work", "True", "red")
        assert Path(outdir) == workflow.dir
        assert Path(workdir) == root
        for rule, queue in (("a", "short"), ("b", "long")):
            (wrapper,) = root.glob(f"{rule}/*/job.wrapped.mysched")
            assert wrapper.read_text().splitlines()[:3] == [
                "#!/bin/bash",
                "#MYSCHED level 3",
                f"#MYSCHED queue {queue}",
            ]

    def test_failure_kill_and_loss(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            rule all:
                input: "bad.out", "lost.out", "long.out"
            rule bad:
                output: "bad.out"
                shell: "echo why >&2; exit 3"
            rule lost:
                output: "lost.out"
                shell: "touch lost.started; sleep 60"
            rule long:
                output: "long.out"
                shell: "touch long.started; sleep 60"
            """
        )
        process = workflow.start("--keep-going", "--pipen-scheduler", "mysched")
        process.wait_for(
            lambda: workflow.exists("lost.started") and workflow.exists("long.started"), "the start"
        )
        process.says("Error in rule bad")
        os.killpg(int(workflow.job("lost").jid.removeprefix("ticket-")), signal.SIGKILL)
        process.says("Error in rule lost")
        process.interrupt()
        result = process.wait()
        assert "exit status 3" in result.failure("bad").message
        assert result.failure("bad").facts["mysched job"].startswith("ticket-")
        assert "lost" in result.failure("lost").message
        workflow.assert_nothing_runs()

    def test_taken_up_after_kill(self, workflow: Workflow) -> None:
        workflow.snakefile(FOUR_RULES)
        process = workflow.start("--pipen-scheduler", "mysched")
        process.wait_for(lambda: len(workflow.lines("effects")) == 3, "the start of two jobs")
        process.kill9()
        workflow.file("go.ended")
        wait_for(lambda: workflow.job("ended").rc == 0, "the end of a job")
        process = workflow.start("--pipen-scheduler", "mysched", "--nolock")
        process.says("taken up again")
        process.says("collected")
        workflow.file("go.running")
        process.wait().ok()
        assert sorted(workflow.lines("effects")) == ["done", "ended", "last", "running"]
        workflow.assert_nothing_runs()

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("broken", ("There is no scheduler 'broken'", "mysched", "--pipen-scheduler")),
            ("no_class", ("not a subclass of xqute.Scheduler", "--pipen-scheduler")),
            ("slrum", ("There is no scheduler 'slrum'", "slurm", "module:Class")),
            ("pathlib:Path", ("pathlib:Path", "not a subclass of xqute.Scheduler")),
            ("pipen_mysched:Away", ("Scheduler pipen_mysched.Away", "the site is closed")),
            ("xqute:Scheduler", ("--pipen-scheduler", "cannot be made", "abstract")),
            ("pipen.scheduler:ContainerScheduler", ("--pipen-scheduler", "shared file system")),
        ],
    )
    def test_that_cannot_be_had(
        self, workflow: Workflow, name: str, words: tuple[str, ...]
    ) -> None:
        workflow.snakefile(ONE_RULE)
        result = workflow.run("--pipen-scheduler", name)
        is_refused(workflow, result, *words)
        if name == "broken":
            result.has("Scheduler broken (pipen_mysched:no_such_thing) of pipen-mysched is skipped")

    def test_pipens_own_class(self, workflow: Workflow) -> None:
        """Not the one of this family of that name, but the one that pipen itself uses."""
        workflow.snakefile(ONE_RULE)
        workflow.run("--pipen-scheduler", "pipen.scheduler:LocalScheduler").ok()
        root = workflow.job_root.parent / "pipen.scheduler.LocalScheduler"
        assert list(root.glob("a/*/job.rc"))
        workflow.assert_nothing_runs()


_OF_A_RUN = ("on_init", "on_shutdown")
_OF_A_JOB = (
    *("on_job_init", "on_job_queued", "on_job_submitting", "on_job_submitted", "on_job_started"),
    *("on_job_polling", "on_job_killing", "on_job_killed", "on_job_failed", "on_job_succeeded"),
    *("on_jobcmd_init", "on_jobcmd_prep", "on_jobcmd_end"),
)
EVERY_HOOK = "\n".join(
    [
        "from pipen_executors.hooks import hookimpl",
        "def note(*words):",
        "    with open('hooks.log', 'a') as stream:",
        "        print(*words, file=stream)",
        *(f"@hookimpl\ndef {name}(scheduler):\n    note('run', '{name}')" for name in _OF_A_RUN),
        *(f"@hookimpl\ndef {name}(job):\n    note(job.spec.rule, '{name}')" for name in _OF_A_JOB),
        "@hookimpl\ndef job_options(spec, options):",
        "    note(spec.rule, 'job_options')",
        "    options['from_hook'] = spec.resources.threads",
        "",
    ]
)


class TestEveryHook(ConformanceBase):
    """In order, for each way in which a job can go."""

    __test__ = True
    backend = BACKEND

    def test_order(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            rule all:
                input: "good.out", "bad.out", "flaky.out", "long.out"
            rule good:
                output: "good.out"
                shell: "until [ -e polled ]; do sleep 0.05; done; touch {output}"
            rule bad:
                output: "bad.out"
                resources: pipen_num_retries=0
                shell: "exit 3"
            rule flaky:
                output: "flaky.out"
                resources: pipen_num_retries=1
                shell: "echo x >> n; touch {output}; [ $(wc -l < n) -eq 2 ]"
            rule long:
                output: "long.out"
                shell: "touch started; sleep 60"
            """
        )
        workflow.file("recorder.py", EVERY_HOOK)
        process = workflow.start(
            "--keep-going",
            *self.backend.option("plugins", "recorder"),
            *self.backend.option("error_strategy", "retry"),
            env={"PYTHONPATH": str(workflow.dir)},
        )

        def of(rule: str) -> list[str]:
            """Return the hooks of a rule; polling as often as it likes is once."""
            words = [line.split() for line in workflow.lines("hooks.log")]
            names = [name for which, name in words if which == rule]
            return [name for name, _ in groupby(names)]

        polled = {"good", "long"}
        process.wait_for(
            lambda: all("on_job_polling" in of(rule) for rule in polled), "a query of the scheduler"
        )
        workflow.file("polled")
        process.says("Error in rule bad")
        process.says("Finished jobid", times=2)
        process.interrupt()
        process.wait().failed()

        options = ["job_options"]
        submission = ["on_job_queued", "on_job_submitting"]
        submission += ["on_jobcmd_init", "on_jobcmd_prep", "on_jobcmd_end"]
        submission += ["on_job_submitted", "on_job_started"]
        start = [*options, "on_job_init", *submission]
        assert of("good") == [*start, "on_job_polling", "on_job_succeeded"]
        assert of("bad") == [*start, "on_job_failed"]
        assert of("flaky") == [*start, "on_job_failed", *submission, "on_job_succeeded"]
        assert of("long") == [*start, "on_job_polling", "on_job_killing", "on_job_killed"]
        assert of("run") == ["on_init", "on_shutdown"]
