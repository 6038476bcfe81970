"""Hooks of the family and of xqute's plugins: order, names, and what a broken one costs."""

from __future__ import annotations

from .base import ConformanceBase
from .harness import Workflow

_NAMES = [
    *("on_init", "on_shutdown"),
    *("on_job_init", "on_job_queued", "on_job_submitting", "on_job_submitted", "on_job_started"),
    *("on_job_killing", "on_job_killed", "on_job_failed", "on_job_succeeded"),
]

RECORDER = "\n".join(
    [
        "from pathlib import Path",
        "from pipen_executors.hooks import hookimpl",
        "",
        "def note(*words):",
        "    with Path('hooks.log').open('a') as stream:",
        "        print(*words, file=stream)",
        *(
            f"@hookimpl\ndef {name}(scheduler):\n    note('{name}', scheduler.name)"
            for name in _NAMES[:2]
        ),
        *(
            f"@hookimpl\ndef {name}(scheduler, job):\n"
            f"    note('{name}', job.spec.rule, bool(job.jid), job.trial_count)"
            for name in _NAMES[2:]
        ),
        "@hookimpl\ndef on_jobcmd_init(scheduler, job):",
        "    return f'export FROM_INIT=\"init {job.spec.rule}\"'",
        "@hookimpl\ndef on_jobcmd_prep(scheduler, job):",
        "    return 'cmd=\"env FROM_PREP=prep $cmd\"'",
        "@hookimpl\ndef on_jobcmd_end(scheduler, job):",
        "    return 'echo \"end $rc\" >> ends'",
        "@hookimpl\ndef job_options(spec, options):",
        "    note('job_options', spec.rule, sorted(options))",
        "",
    ]
)

XQUTE_PLUGIN = """
from pathlib import Path
from xqute import plugin
from xqute.plugin import plugin as manager

def note(*words):
    with Path('xqute.log').open('a') as stream:
        print(*words, file=stream)

class Recorder:
    @plugin.impl
    def on_init(xqute):
        scheduler = xqute.scheduler
        note('on_init', scheduler.name, scheduler.num_retries, scheduler.forks)
    @plugin.impl
    def on_shutdown(xqute, sig):
        note('on_shutdown')
    @plugin.impl
    async def on_job_init(scheduler, job):
        note('on_job_init', job.index)
    @plugin.impl
    async def on_job_queued(scheduler, job):
        note('on_job_queued', job.index)
    @plugin.impl
    async def on_job_submitting(scheduler, job):
        note('on_job_submitting', job.index)
    @plugin.impl
    async def on_job_submitted(scheduler, job):
        note('on_job_submitted', job.jid != '')
    @plugin.impl
    async def on_job_started(scheduler, job):
        note('on_job_started', job.metadir.joinpath('job.script').is_file())
    @plugin.impl
    async def on_job_failed(scheduler, job):
        note('on_job_failed', await job.get_rc())
    @plugin.impl
    async def on_job_succeeded(scheduler, job):
        note('on_job_succeeded', await job.get_rc())
    @plugin.impl
    def on_jobcmd_prep(scheduler, job):
        return 'export FROM_XQUTE=xqute'

manager.register(Recorder)
"""


class Hooks(ConformanceBase):
    """Plugins given with ``--pipen-<backend>-plugins``."""

    def test_order_of_hooks(self, workflow: Workflow) -> None:
        """Success, failure and retry, in the order in which a job meets them."""
        self.needs_shared_files()
        workflow.snakefile(
            """
            rule all:
                input: "good.out", "bad.out", "flaky.out"
            rule good:
                output: "good.out"
                shell: "echo $FROM_INIT $FROM_PREP > {output}"
            rule bad:
                output: "bad.out"
                resources: pipen_error_strategy="ignore"
                shell: "exit 3"
            rule flaky:
                output: "flaky.out"
                shell: "echo x >> n; touch {output}; [ $(wc -l < n) -eq 2 ]"
            """
        )
        workflow.file("recorder.py", RECORDER)
        workflow.run(
            "--keep-going",
            *self.backend.option("plugins", "recorder"),
            *self.backend.option("error_strategy", "retry"),
            env={"PYTHONPATH": str(workflow.dir)},
        ).failed()
        everything = workflow.lines("hooks.log")
        # The backend under test may have options for all jobs.
        asked = {line.partition(" [")[0] for line in everything}
        assert {"job_options good", "job_options bad"} <= asked
        # Options are asked for when rules are checked too, which is before all else.
        log = [line for line in everything if not line.startswith("job_options")]
        assert log[0] == f"on_init {self.backend.scheduler}"
        assert log[-1] == f"on_shutdown {self.backend.scheduler}"

        def of(rule: str) -> list[str]:
            words = (line.split() for line in log)
            return [" ".join([w[0], *w[2:]]) for w in words if w[1] == rule and len(w) > 3]

        start = ["on_job_init False 0", "on_job_queued False 0", "on_job_submitting False 0"]
        start += ["on_job_submitted True 0", "on_job_started True 0"]
        assert of("good") == [*start, "on_job_succeeded True 0"]
        assert of("bad") == [*start, "on_job_failed True 0"]
        # The failed attempt counts before its hook, as in xqute.
        assert [line.rpartition(" ")[0] for line in of("flaky")] == [
            *(line.rpartition(" ")[0] for line in start),
            "on_job_failed True",
            "on_job_queued False",
            "on_job_submitting False",
            "on_job_submitted True",
            "on_job_started True",
            "on_job_succeeded True",
        ]
        assert workflow.read("good.out") == "init good prep\n"
        assert sorted(workflow.lines("ends")) == ["end 0", "end 0", "end 1", "end 3"]

    def test_hooks_of_a_killed_job(self, workflow: Workflow) -> None:
        self.needs_shared_files()
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                shell: "sleep 60"
            """
        )
        workflow.file("recorder.py", RECORDER)
        process = workflow.start(
            *self.backend.option("plugins", "recorder"), env={"PYTHONPATH": str(workflow.dir)}
        )
        process.wait_for(
            lambda: "on_job_started" in "".join(workflow.lines("hooks.log")), "the job's start"
        )
        process.interrupt()
        process.wait()
        names = [line.split()[0] for line in workflow.lines("hooks.log")]
        assert names[names.index("on_job_submitted") :] == [
            "on_job_submitted",
            "on_job_started",
            "on_job_killing",
            "on_job_killed",
            "on_shutdown",
        ]
        workflow.assert_nothing_runs()

    def test_hook_that_raises(self, workflow: Workflow) -> None:
        """It is named, and no job is lost by it; one that answers False refuses a job."""
        names = [name for name in _NAMES if name not in ("on_job_killing", "on_job_killed")]
        names += ["on_jobcmd_init", "on_jobcmd_prep", "on_jobcmd_end"]
        text = "from pipen_executors.hooks import hookimpl\n"
        for name in names:
            text += f"@hookimpl\ndef {name}():\n    raise RuntimeError('oops {name}')\n"
        workflow.file("broken.py", text)
        workflow.file(
            "refusing.py",
            """
            from pipen_executors.hooks import hookimpl
            @hookimpl
            def on_job_submitting(job):
                return job.spec.rule != "refused"
            """,
        )
        workflow.snakefile(
            """
            rule all:
                input: "good.out", "bad.out", "refused.out"
            rule good:
                output: "good.out"
                shell: "touch {output}"
            rule bad:
                output: "bad.out"
                shell: "exit 3"
            rule refused:
                output: "refused.out"
                shell: "touch {output}"
            """
        )
        result = workflow.run(
            "--keep-going",
            *self.backend.option("plugins", "broken", "refusing"),
            env={"PYTHONPATH": str(workflow.dir)},
        ).failed()
        for name in names:
            result.has(f"oops {name}")
        result.has("broken")
        assert {failure.rule for failure in result.failures()} == {"bad", "refused"}
        assert "refused by a hook" in result.failure("refused").message
        assert workflow.exists("good.out")
        assert not workflow.exists("refused.out")

    def test_xqute_plugin_at_the_same_points(self, workflow: Workflow) -> None:
        self.needs_shared_files()
        workflow.snakefile(
            """
            rule all:
                input: "good.out", "bad.out"
            rule good:
                output: "good.out"
                shell: "echo $FROM_XQUTE > {output}"
            rule bad:
                output: "bad.out"
                shell: "exit 3"
            """
        )
        workflow.file("recorder.py", XQUTE_PLUGIN)
        workflow.run(
            *self.backend.option("plugins", "recorder"),
            *self.backend.option("num_retries", "5"),
            *self.backend.option("forks", "7"),
            env={"PYTHONPATH": str(workflow.dir)},
            jobs=1,
        ).failed()
        log = workflow.lines("xqute.log")
        assert log[0] == f"on_init {self.backend.scheduler} 5 7"
        assert log[-1] == "on_shutdown"
        start = ["on_job_init 0", "on_job_queued 0", "on_job_submitting 0"]
        start += ["on_job_submitted True", "on_job_started True"]
        assert log[1:6] == start
        assert "on_job_failed 3" in log

    def test_module_that_cannot_be_loaded(self, workflow: Workflow) -> None:
        workflow.snakefile("rule a:\n    output: 'a.out'\n    shell: 'touch {output}'\n")
        workflow.file("broken.py", "raise RuntimeError('at import')\n")
        for module, why in (("no_such_module", "No module named"), ("broken", "at import")):
            result = workflow.run(
                *self.backend.option("plugins", module), env={"PYTHONPATH": str(workflow.dir)}
            ).failed()
            line = result.line(self.backend.flag("plugins"), module)
            assert why in line
        assert not workflow.exists("a.out")
