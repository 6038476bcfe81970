"""pipen-sge when things go wrong: every end has a reason, none is waited for in vain."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conformance.harness import Process, Result, Workflow
from .services.sge import SgeCell
from .services.users import TEST_USER
from .sge_support import cell_or_skip, workflow_on

pytestmark = pytest.mark.sge

COMMANDS = ("qsub", "qstat", "qdel", "qacct", "qconf", "qalter", "qhost", "qmod")


@pytest.fixture(scope="module")
def cell() -> Iterator[SgeCell]:
    """A cell for all tests that leave it as it was."""
    with cell_or_skip(max_unheard=4) as running:
        yield running


@pytest.fixture
def workflow(cell: SgeCell, tmp_path: Path) -> Iterator[Workflow]:
    """A workflow on that cell."""
    workflow = workflow_on(cell, tmp_path)
    try:
        yield workflow
    finally:
        workflow.close()


@pytest.fixture
def own_cell() -> Iterator[SgeCell]:
    """A cell that a test may break."""
    with cell_or_skip(max_unheard=4) as running:
        yield running


def rule(name: str, shell: str, *directives: str) -> str:
    """Return a rule with one output, named like it."""
    lines = [f"rule {name}:", f"    output: {name + '.out'!r}"]
    lines += [f"    {directive}" for directive in directives]
    return "\n".join([*lines, f"    shell: {shell!r}", ""])


def one(workflow: Workflow, shell: str, *directives: str) -> None:
    """Write a workflow of one rule, ``a``."""
    workflow.snakefile(rule("a", shell, *directives))


def jid_of(workflow: Workflow, process: Process, name: str = "a") -> str:
    """Return the id of a rule's job once it is known."""
    return process.wait_for(
        lambda: "".join(job.jid for job in workflow.jobs(name)),
        "the job's id",
    )


def started(workflow: Workflow, process: Process, name: str = "started") -> None:
    process.wait_for(lambda: workflow.exists(name), "the job's start")


# -- how jobs end -----------------------------------------------------------------------


def test_error_state_is_a_failure_with_grid_engines_words(
    cell: SgeCell, workflow: Workflow
) -> None:
    workflow.snakefile(
        """
        rule all:
            input: "single.out", expand("task.{n}", n=range(3))
        rule single:
            output: "single.out"
            resources: pipen_options="o=/nonexistent/x"
            shell: "touch {output}"
        rule task:
            output: "task.{n}"
            resources: pipen_options="o=/nonexistent/x"
            shell: "touch {output}"
        """
    )
    result = workflow.run("--keep-going").failed()
    assert len(result.failures()) == 4
    for failure in result.failures():
        assert failure.message.startswith("could not be started on the node"), failure.text
        assert "can't open output file" in failure.message
    cell.wait_idle(timeout=10)


def test_deleted_while_it_waited(cell: SgeCell, workflow: Workflow) -> None:
    one(workflow, "touch {output}", 'resources: pipen_options="h=true"')
    process = workflow.start()
    jid = jid_of(workflow, process)
    cell.wait_state(jid, "hqw")
    cell.delete(jid)
    failure = process.wait(40).failed().failure("a")
    assert failure.message.startswith("cancelled: it was deleted from the queue"), failure.text


def test_deleted_while_it_ran(cell: SgeCell, workflow: Workflow) -> None:
    one(workflow, "touch started; sleep 60 & wait")
    process = workflow.start()
    started(workflow, process)
    cell.delete(workflow.job("a").jid)
    failure = process.wait(30).failed().failure("a")
    assert failure.message.startswith("cancelled, exit status 137: SIGKILL"), failure.text
    assert "qdel" in failure.message
    workflow.assert_nothing_runs()


def test_limits(workflow: Workflow) -> None:
    allocate = f"{shutil.which('perl')} -e '$x = \"x\" x 900000000'"
    workflow.snakefile(
        'rule all:\n    input: "hard.out", "soft.out", "memory.out", "quiet.out"\n'
        + rule("hard", "sleep 60", 'resources: pipen_options="l=h_rt=2"')
        + rule("soft", "sleep 60", 'resources: pipen_options="l=s_rt=2"')
        + rule("memory", allocate.replace("{", "{{"), "resources: mem_mb=200")
        + rule("quiet", "echo something else >&2; exit 12", "resources: mem_mb=200")
    )
    result = workflow.run("--keep-going").failed()
    hard, soft = result.failure("hard").message, result.failure("soft").message
    assert hard.startswith("ran longer than allowed, exit status 137: over h_rt=2"), hard
    assert soft.startswith("ran longer than allowed, exit status 138: SIGUSR1: over s_rt=2"), soft
    memory = result.failure("memory").message
    assert memory.startswith("out of memory, exit status"), memory
    assert "h_vmem is 200M" in memory
    assert result.failure("quiet").message == "the command failed, exit status 12"


def test_exit_codes_that_mean_something_to_grid_engine(cell: SgeCell, workflow: Workflow) -> None:
    """99 would be requeued for ever, 100 would be set into the error state."""
    names = ("r99", "r100")
    workflow.snakefile(
        'rule all:\n    input: "r99.out", "r100.out"\n'
        + "".join(rule(name, f"echo x >> {name}.log; exit {name[1:]}") for name in names)
    )
    result = workflow.run("--keep-going").failed()
    for name in names:
        assert result.failure(name).message == f"the command failed, exit status {name[1:]}"
        assert workflow.lines(f"{name}.log") == ["x"]
    cell.wait_idle(timeout=10)


def test_node_without_a_word(workflow: Workflow) -> None:
    """The wrapper cannot even be read; what the shell said is in the message."""
    one(workflow, "touch {output}", 'resources: pipen_options="h=true"')
    process = workflow.start()
    jid = jid_of(workflow, process)
    wrapper = workflow.job("a").path / "job.wrapped.sge"
    wrapper.unlink()
    cell_of(workflow).run("qrls", jid)
    failure = process.wait(40).failed().failure("a")
    assert failure.message.startswith("could not be started on the node, exit status 127")
    assert "No such file or directory" in failure.message


def cell_of(workflow: Workflow) -> SgeCell:
    """Return the cell that a workflow runs on."""
    return SgeCell.attach(Path(workflow.backend.environment["SGE_ROOT"]))


@pytest.mark.slow
def test_accounting_comes_late(tmp_path: Path) -> None:
    """Debian's qmaster writes accounting records 15 seconds late."""
    with cell_or_skip(accounting_delay=15) as cell:
        workflow = workflow_on(cell, tmp_path)
        one(workflow, "touch started; sleep 60", 'resources: pipen_options="l=h_rt=2"')
        failure = workflow.run(timeout=60).failed().failure("a")
        assert failure.message.startswith("ran longer than allowed"), failure.text


# -- submission ------------------------------------------------------------------------


def test_job_that_can_never_run(cell: SgeCell, workflow: Workflow) -> None:
    workflow.snakefile(
        'rule all:\n    input: "memory.out", "slots.out", "queue.out"\n'
        + rule("memory", "touch {output}", "resources: mem_mb=900000")
        + rule("slots", "touch {output}", "threads: 99")
        + rule("queue", "touch {output}", 'resources: sge_queue="nosuch.q"')
    )
    result = workflow.run("--keep-going", jobs=200).failed()
    for name in ("memory", "slots"):
        message = result.failure(name).message
        assert message.startswith("could not be submitted: no queue could ever run it"), message
    assert 'job requests unknown queue "nosuch.q"' in result.failure("queue").message
    assert result.seconds < 30
    cell.wait_idle(timeout=10)


def test_request_for_a_load_value(workflow: Workflow) -> None:
    """``-w e`` refuses it, though it can run."""
    one(workflow, "touch {output}", "resources: mem_mb=1")
    workflow.run("--pipen-sge-memory", "mem_free").ok()


def test_limits_of_submission(tmp_path: Path) -> None:
    with cell_or_skip(max_u_jobs=3, max_aj_tasks=5) as cell:
        workflow = workflow_on(cell, tmp_path)
        workflow.snakefile(
            "rule all:\n    input: expand('{n}.out', n=range(23))\n"
            "rule a:\n    output: '{n}.out'\n    shell: 'echo x >> {output}'\n"
        )
        result = workflow.run(jobs=50).ok().has("only 3 jobs are allowed per user")
        assert all(workflow.lines(f"{n}.out") == ["x"] for n in range(23))
        result.lacks("Traceback")


def test_threads(workflow: Workflow) -> None:
    one(workflow, "echo $NSLOTS $PE > {output}", "threads: 3", "resources: mem_mb=900")
    workflow.run(jobs=10).ok()
    assert workflow.lines("a.out") == ["3 smp"]


def test_environment_that_is_not_obvious(tmp_path: Path) -> None:
    with cell_or_skip(environments={"first": "$pe_slots", "second": "$pe_slots"}) as cell:
        workflow = workflow_on(cell, tmp_path)
        one(workflow, "echo $PE > {output}", "threads: 2")
        result = workflow.run().failed().has("first ($pe_slots)", "second ($pe_slots)")
        result.has("--pipen-sge-pe").lacks("Traceback")
        workflow.run("--pipen-sge-pe", "second").ok()
        assert workflow.lines("a.out") == ["second"]


# -- daemons away -----------------------------------------------------------------------


@pytest.mark.slow
def test_qmaster_away_while_submitting(own_cell: SgeCell, tmp_path: Path) -> None:
    workflow = workflow_on(own_cell, tmp_path)
    one(workflow, "echo x >> a.log; touch {output}")
    own_cell.stop_qmaster()
    process = workflow.start()
    process.wait_for(lambda: "trying again" in process.text, "the failed submission")
    own_cell.start_qmaster()
    process.wait(120).ok().has("unable to send message to qmaster")
    assert workflow.lines("a.log") == ["x"]


@pytest.mark.slow
def test_qmaster_hangs_while_submitting(own_cell: SgeCell, tmp_path: Path) -> None:
    """A submission without an answer is not made twice, or its second does nothing."""
    workflow = workflow_on(own_cell, tmp_path)
    workflow.snakefile(
        "rule all:\n    input: expand('{n}.out', n=range(5))\n"
        "rule a:\n    output: '{n}.out'\n    shell: 'echo x >> {output}.log; touch {output}'\n"
    )
    own_cell.hang_qmaster()
    process = workflow.start()
    process.wait_for(lambda: workflow.jobs("a"), "the submission")
    process.wait_for(lambda: qsubs(own_cell), "qsub's start")
    own_cell.wake_qmaster()
    process.wait(150).ok()
    assert all(workflow.lines(f"{n}.out.log") == ["x"] for n in range(5))


def qsubs(cell: SgeCell) -> list[str]:
    """Return the ids of running qsub processes of a cell."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"qsub\0" in path.read_bytes():
                environ = path.with_name("environ").read_bytes()
                if f"SGE_ROOT={cell.base}".encode() in environ:
                    found.append(path.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_qmaster_away_while_jobs_run(own_cell: SgeCell, tmp_path: Path) -> None:
    """Their ends are heard of, and a job that goes on is not given up."""
    workflow = workflow_on(own_cell, tmp_path)
    workflow.snakefile(
        'rule all:\n    input: "quick.out", "long.out"\n'
        + rule("quick", "touch quick; until [ -e go ]; do sleep 0.1; done; touch {output}")
        + rule("long", "touch long; until [ -e end ]; do sleep 0.1; done; touch {output}")
    )
    process = workflow.start()
    started(workflow, process, "quick")
    started(workflow, process, "long")
    own_cell.stop_qmaster()
    process.wait_for(lambda: "no job is affected" in process.text, "a query that fails")
    workflow.file("go")
    process.wait_for(lambda: "1 of 3 steps" in process.text, "the end of the quick job")
    own_cell.start_qmaster()
    workflow.file("end")
    process.wait(60).ok()


@pytest.mark.slow
def test_host_is_lost(own_cell: SgeCell, tmp_path: Path) -> None:
    """The job is given up after the time that is set, and named as the host's failure."""
    workflow = workflow_on(own_cell, tmp_path)
    one(workflow, "touch started; sleep 300")
    process = workflow.start("--pipen-sge-host-timeout", "6")
    started(workflow, process)
    own_cell.stop_execd()
    failure = process.wait(90).failed().failure("a")
    assert failure.message.startswith("the node failed: nothing was heard of all.q@localhost")


@pytest.mark.slow
def test_daemon_of_the_host_is_away_for_a_while(own_cell: SgeCell, tmp_path: Path) -> None:
    """The job itself goes on, and its end is heard of without the daemon."""
    workflow = workflow_on(own_cell, tmp_path)
    one(workflow, "touch started; until [ -e go ]; do sleep 0.1; done; touch {output}")
    process = workflow.start()
    started(workflow, process)
    own_cell.stop_execd()
    own_cell.wait_queue("u")
    workflow.file("go")
    process.wait(30).ok()


@pytest.mark.slow
def test_interrupt_while_the_host_is_lost(own_cell: SgeCell, tmp_path: Path) -> None:
    """Grid Engine would keep the job as ``dr`` for ever; Snakemake does not wait for that."""
    workflow = workflow_on(own_cell, tmp_path)
    one(workflow, "touch started; sleep 300")
    process = workflow.start()
    started(workflow, process)
    own_cell.stop_execd()
    own_cell.wait_queue("u")
    process.interrupt()
    process.wait(90).failed()


# -- killed runs, cancellation, cost ---------------------------------------------------------

MANY = """
rule all:
    input: expand("long.{{n}}", n=range({count}))
rule long:
    output: "long.{{n}}"
    shell:
        "echo x >> ran.{{wildcards.n}}; touch started.{{wildcards.n}}; "
        "until [ -e go ]; do sleep 0.2; done; touch {{output}}"
"""


@pytest.mark.slow
@pytest.mark.parametrize("user", [None, TEST_USER], ids=["root", "user"])
def test_kill_and_run_again(cell: SgeCell, tmp_path: Path, user: str | None) -> None:
    """Some run, some wait (16 slots), some end meanwhile: nothing runs twice."""
    workflow = workflow_on(cell, tmp_path, user=user)
    workflow.snakefile(MANY.format(count=20))
    process = workflow.start(jobs=30)
    process.wait_for(lambda: len(list(workflow.dir.glob("started.*"))) == 16, "16 jobs' start")
    process.kill9()
    workflow.run("--unlock").ok()
    again = workflow.start(jobs=30)
    again.wait_for(lambda: "taken up again" in again.text, "the jobs to be taken up")
    workflow.file("go")
    again.wait(120).ok()
    ran = Counter({n: len(workflow.lines(f"ran.{n}")) for n in range(20)})
    assert set(ran.values()) == {1}, ran
    cell.wait_idle(timeout=20)
    workflow.close()


@pytest.mark.parametrize("user", [None, TEST_USER], ids=["root", "user"])
def test_interrupt_empties_the_queue_of_this_run(
    cell: SgeCell, tmp_path: Path, user: str | None
) -> None:
    """And only of this run, with one qdel."""
    workflow = workflow_on(cell, tmp_path, user=user)
    workflow.snakefile(MANY.format(count=40))
    words = ("qsub", "-terse", "-N", "other", "-S", "/bin/sh", "-o", "/dev/null", "-j", "y")
    other = cell.run(*words, user=user, stdin="sleep 600").stdout.strip()
    cell.wait_state(other, "r")
    process = workflow.start(jobs=50)
    process.wait_for(lambda: len(list(workflow.dir.glob("started.*"))) >= 10, "the jobs' start")
    process.interrupt()
    process.wait(60).failed()
    left = cell.run("qstat", "-u", "*").stdout.splitlines()[2:]
    cell.delete(other)
    assert [line.split()[0] for line in left] == [other]
    workflow.assert_nothing_runs()
    cell.wait_idle()
    workflow.close()


def test_command_ends_where_only_the_process_group_is_killed(tmp_path: Path) -> None:
    with cell_or_skip(kill_by_group=False) as cell:
        workflow = workflow_on(cell, tmp_path, user=TEST_USER)
        one(workflow, "touch started; sleep 300 & wait")
        process = workflow.start()
        started(workflow, process)
        process.interrupt()
        process.wait(30).failed()
        workflow.assert_nothing_runs()
        workflow.close()


def test_few_commands(cell: SgeCell, tmp_path: Path) -> None:
    """At most five for 60 jobs, and none for a job that ends well."""
    counting, log = count_commands(cell, tmp_path / "shims")
    workflow = workflow_on(cell, tmp_path, environment={**cell.env, "PATH": counting})
    workflow.snakefile(
        "rule all:\n    input: expand('{n}.out', n=range(60))\n"
        "rule a:\n    output: '{n}.out'\n    shell: 'echo x >> {output}'\n"
    )
    result: Result = workflow.run(jobs=100).ok()
    calls = Counter(log.read_text().split())
    assert calls.total() <= 5, (calls, result.seconds)
    assert calls["qsub"] == 1
    assert all(workflow.lines(f"{n}.out") == ["x"] for n in range(60))


def count_commands(cell: SgeCell, directory: Path) -> tuple[str, Path]:
    """Return a PATH on which each call of a client is noted, and the file with the notes."""
    directory.mkdir()
    log = directory / "log"
    log.touch()
    path = cell.env["PATH"]
    for name in COMMANDS:
        shim = directory / name
        real = shutil.which(name, path=path)
        shim.write_text(f'#!/bin/sh\necho {name} >> {log}\nexec {real} "$@"\n')
        shim.chmod(0o755)
    return f"{directory}:{path}", log


def test_job_outlives_a_closed_terminal(cell: SgeCell, workflow: Workflow) -> None:
    one(workflow, "touch started; until [ -e go ]; do sleep 0.1; done; echo x >> {output}")
    process = workflow.start()
    started(workflow, process)
    process.kill9()
    jid = workflow.job("a").jid
    workflow.file("go")
    cell.wait_state(jid, "")
    workflow.run("--unlock").ok()
    workflow.run().ok().has("ended meanwhile; collected")
    assert workflow.lines("a.out") == ["x"]


def test_signal_from_outside_is_named(workflow: Workflow) -> None:
    """Of the wrapper, by a person or a site's own method of ending jobs."""
    one(workflow, "echo $PPID > wrapper; sleep 60 & wait")
    process = workflow.start()
    process.wait_for(lambda: workflow.lines("wrapper"), "the job's start")
    os.kill(int(workflow.read("wrapper")), signal.SIGTERM)
    failure = process.wait(30).failed().failure("a")
    assert "SIGTERM, from outside of the job" in failure.message, failure.text
