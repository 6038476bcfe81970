"""pipen-sge when things go wrong: every end has a reason, none is waited for in vain."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
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
def own_cell() -> Iterator[SgeCell]:
    """A cell that a test may break."""
    with cell_or_skip(max_unheard=4) as running:
        yield running


@pytest.fixture(
    params=[None, pytest.param(TEST_USER, marks=pytest.mark.slow)], ids=["root", "user"]
)
def user(request: pytest.FixtureRequest) -> str | None:
    """As whom a workflow runs, None for root: what goes wrong is seen by both."""
    user: str | None = request.param
    return user


@pytest.fixture
def workflow(
    request: pytest.FixtureRequest, tmp_path: Path, user: str | None
) -> Iterator[Workflow]:
    """A workflow on the cell of all tests, or on the test's own where it asks for one."""
    name = "own_cell" if "own_cell" in request.fixturenames else "cell"
    with closing(workflow_on(request.getfixturevalue(name), tmp_path, user=user)) as workflow:
        yield workflow


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
            resources: pipen_options="wd=/nonexistent"
            shell: "touch {output}"
        """
    )
    result = workflow.run("--keep-going").failed()
    assert len(result.failures()) == 4
    for failure in result.failures():
        why = "open output file" if failure.rule == "single" else "chdir to /nonexistent"
        assert failure.message.startswith("could not be started on the node"), failure.text
        assert f"can't {why}" in failure.message
    cell.wait_idle()


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


def test_deleted_with_a_warning(cell: SgeCell, workflow: Workflow) -> None:
    """The command dies of the warning (``-notify``); its wrapper does not."""
    one(workflow, "touch started; exec sleep 60", "resources: sge_notify=True")
    process = workflow.start()
    started(workflow, process)
    cell.delete(workflow.job("a").jid)
    failure = process.wait(30).failed().failure("a")
    assert failure.message.startswith("cancelled, exit status 140: SIGUSR2: deleted (qdel)")


@pytest.mark.parametrize("options", ["r=y", "r=y notify=true"])
def test_put_back_into_the_queue(cell: SgeCell, workflow: Workflow, options: str) -> None:
    """Grid Engine runs it once more; that is no failure, and no work for Snakemake."""
    one(
        workflow,
        "echo $JOB_ID >> ran; [ -e go ] || {{ touch started; exec sleep 60; }}; touch {output}",
        f'resources: pipen_options="{options}"',
    )
    process = workflow.start()
    started(workflow, process)
    workflow.file("go")
    cell.run("qmod", "-rj", workflow.job("a").jid)
    process.wait(60).ok()
    ran = workflow.lines("ran")
    assert len(ran) == 2
    assert len(set(ran)) == 1


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
    cell.wait_idle()


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
    cell.wait_idle()


def test_requests_that_qsub_does_not_know_to_be_right(tmp_path: Path) -> None:
    """``-w e`` refuses load values, though such a job can run; and what no host has."""
    with cell_or_skip(consumables={"licence": 2, "gpu": 0}) as cell:
        workflow = workflow_on(cell, tmp_path)
        names = ("free", "short", "both", "huge", "mixed", "licences", "gpu")
        outputs = ", ".join(f"'{name}.out'" for name in names)
        workflow.snakefile(
            f"rule all:\n    input: {outputs}\n"
            + rule("free", "touch {output}", 'resources: pipen_options="l=mem_free=1M"')
            + rule("short", "touch {output}", 'resources: pipen_options="l=mf=1M"')
            + rule("both", "touch {output}", 'resources: pipen_options="l=[mem_free=1M,licence=2]"')
            + rule("huge", "touch {output}", 'resources: pipen_options="l=mem_free=90000G"')
            + rule("mixed", "touch {output}", 'resources: pipen_options="l=[mem_free=1M,gpu=1]"')
            + rule("licences", "touch {output}", 'resources: pipen_options="l=licence=3"')
            + rule("gpu", "touch {output}", "resources: gpu=1")
        )
        result = workflow.run("--keep-going", jobs=20).failed()
        assert all(workflow.exists(f"{name}.out") for name in ("free", "short", "both"))
        never = "could not be submitted: no queue could ever run it, even if all were empty: "
        for name, why in (
            ("huge", "it offers only hl:mem_total="),
            ("mixed", "unknown resource (gpu)"),
            ("licences", "it offers only hc:licence=2.0"),
            ("gpu", "unknown resource (gpu)"),
        ):
            message = result.failure(name).message
            assert message.startswith(never + why), message
        cell.wait_idle()


def test_options_are_checked_before_the_first_job(workflow: Workflow) -> None:
    workflow.snakefile(
        'rule all:\n    input: "a.out", "b.out"\n'
        + rule("a", "touch {output}")
        + rule("b", "touch {output}", "input: 'a.out'", "resources: sge_priority=5000")
    )
    result = workflow.run().failed()
    result.line("resource sge_priority of rule b", "5000", "-1023 to 1024")
    assert not workflow.exists("a.out")


def test_defaults_that_a_user_has_set(cell: SgeCell, workflow: Workflow) -> None:
    """In files of Grid Engine's, for other work than Snakemake's."""
    workflow.file("home/.sge_request", "-b y -sync y -j n -V\n")
    workflow.file("home/.sge_qstat", "-s r\n")
    one(workflow, "echo x >> {output}", 'resources: pipen_options="h=true"')
    process = workflow.start(env={"HOME": str(workflow.path("home"))})
    jid = jid_of(workflow, process)
    process.wait_for(lambda: "Waiting: a" in process.text, "the waiting job to be seen")
    cell.run("qrls", jid)
    process.wait(60).ok()
    assert workflow.lines("a.out") == ["x"]


def test_name_that_is_asked_for(cell: SgeCell, workflow: Workflow) -> None:
    """It is that of the jobs in the queue, and all ends are known as ever."""
    workflow.snakefile(
        'rule all:\n    input: "hard.out", "kept.out"\n'
        + rule("hard", "sleep 60", 'resources: pipen_options="l=h_rt=2 N=my/name"')
        + rule("kept", "touch started; sleep 60 & wait", "resources: name='1st'")
    )
    process = workflow.start("--keep-going")
    started(workflow, process)
    jid = workflow.job("kept").jid
    assert "job_name:                   j1st." in cell.run("qstat", "-j", jid).stdout
    cell.delete(jid)
    result = process.wait(40).failed()
    assert result.failure("hard").message.startswith("ran longer than allowed")
    assert result.failure("kept").message.startswith("cancelled")


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
def test_qmaster_away_while_submitting(own_cell: SgeCell, workflow: Workflow) -> None:
    one(workflow, "echo x >> a.log; touch {output}")
    own_cell.stop_qmaster()
    process = workflow.start()
    process.wait_for(lambda: "trying again" in process.text, "the failed submission")
    own_cell.start_qmaster()
    process.wait(120).ok().has("unable to send message to qmaster")
    assert workflow.lines("a.log") == ["x"]


@pytest.mark.slow
def test_qmaster_hangs_while_submitting(own_cell: SgeCell, workflow: Workflow) -> None:
    """A submission without an answer is not made twice, or its second does nothing."""
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
def test_qmaster_away_while_jobs_run(own_cell: SgeCell, workflow: Workflow) -> None:
    """Their ends are heard of, and a job that goes on is not given up."""
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
def test_qmaster_away_while_a_job_vanishes(own_cell: SgeCell, workflow: Workflow) -> None:
    one(workflow, "echo $PPID > wrapper; sleep 300 & wait")
    process = workflow.start()
    process.wait_for(lambda: workflow.lines("wrapper"), "the job's start")
    own_cell.stop_qmaster()
    os.kill(int(workflow.read("wrapper")), signal.SIGKILL)
    process.wait_for(lambda: "no job is affected" in process.text, "a query that fails")
    own_cell.start_qmaster()
    failure = process.wait(90).failed().failure("a")
    assert failure.message.startswith("cancelled, exit status 137: SIGKILL on"), failure.text


@pytest.mark.slow
def test_qmaster_away_when_all_is_to_be_deleted(own_cell: SgeCell, workflow: Workflow) -> None:
    one(workflow, "touch started; sleep 300 & wait")
    process = workflow.start()
    started(workflow, process)
    own_cell.stop_qmaster()
    process.interrupt()
    process.wait_for(lambda: "trying again" in process.text, "a qdel that fails")
    own_cell.start_qmaster()
    process.wait(90).failed()
    workflow.assert_nothing_runs()
    own_cell.wait_idle()


@pytest.mark.slow
def test_qmaster_away_when_jobs_are_taken_up(own_cell: SgeCell, workflow: Workflow) -> None:
    """And the parallel environment cannot be asked for, until it is back."""
    run = (
        "echo x >> {output}.log; touch started; until [ -e go ]; do sleep 0.1; done; touch {output}"
    )
    workflow.snakefile(
        'rule all:\n    input: "a.out", "b.out"\n'
        + rule("a", run)
        + rule("b", "touch {output}", "input: 'a.out'", "threads: 2")
    )
    process = workflow.start("--pipen-sge-pe", "smp", jobs=4)
    started(workflow, process)
    process.kill9()
    workflow.run("--unlock").ok()
    own_cell.stop_qmaster()
    again = workflow.start(jobs=4)
    again.wait_for(lambda: "trying again" in again.text, "a query that fails")
    own_cell.start_qmaster()
    again.wait_for(lambda: "taken up again" in again.text, "the job to be taken up")
    workflow.file("go")
    again.wait(90).ok()
    assert workflow.lines("a.out.log") == ["x"]


@pytest.mark.slow
def test_host_is_lost(own_cell: SgeCell, workflow: Workflow) -> None:
    """The job is given up after the time that is set, and named as the host's failure."""
    one(workflow, "touch started; sleep 300")
    process = workflow.start("--pipen-sge-host-timeout", "6")
    started(workflow, process)
    own_cell.stop_execd()
    failure = process.wait(90).failed().failure("a")
    assert failure.message.startswith("the node failed: nothing was heard of all.q@localhost")


@pytest.mark.slow
def test_removed_by_force_while_the_host_is_lost(own_cell: SgeCell, workflow: Workflow) -> None:
    """Accounting then says failed 0, exit status 0, which is no success."""
    one(workflow, "touch started; sleep 300")
    process = workflow.start()
    started(workflow, process)
    own_cell.stop_execd()
    own_cell.wait_queue("u")
    own_cell.delete(workflow.job("a").jid, "-f")
    failure = process.wait(60).failed().failure("a")
    assert failure.message.startswith("lost: the scheduler no longer knows the job"), failure.text
    assert "failed 0, exit status 0" in failure.message


@pytest.mark.slow
def test_daemon_of_the_host_is_away_for_a_while(own_cell: SgeCell, workflow: Workflow) -> None:
    """The job itself goes on, and its end is heard of without the daemon."""
    one(workflow, "touch started; until [ -e go ]; do sleep 0.1; done; touch {output}")
    process = workflow.start()
    started(workflow, process)
    own_cell.stop_execd()
    own_cell.wait_queue("u")
    workflow.file("go")
    process.wait(30).ok()


@pytest.mark.slow
def test_interrupt_while_the_host_is_lost(own_cell: SgeCell, workflow: Workflow) -> None:
    """Grid Engine would keep the job as ``dr`` for ever; Snakemake does not wait for that."""
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
def test_kill_and_run_again(cell: SgeCell, workflow: Workflow) -> None:
    """Some run, some wait (16 slots), some end meanwhile: nothing runs twice."""
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
    cell.wait_idle()


@pytest.mark.parametrize("user", [None, TEST_USER], ids=["root", "user"])
def test_interrupt_empties_the_queue_of_this_run(
    cell: SgeCell, workflow: Workflow, user: str | None
) -> None:
    """And only of this run, with one qdel."""
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
    """At most five for 60 jobs, and none for a job that ends well.

    One qsub, and a qstat ever more seldom: more of them only where all takes minutes.
    """
    counting, log = count_commands(cell, tmp_path / "shims")
    workflow = workflow_on(cell, tmp_path, environment={**cell.env, "PATH": counting})
    workflow.snakefile(
        "rule all:\n    input: expand('{n}.out', n=range(60))\n"
        "rule a:\n    output: '{n}.out'\n    shell: 'echo x >> {output}'\n"
    )
    result: Result = workflow.run(jobs=100).ok()
    calls = Counter(log.read_text().split())
    assert calls.total() <= max(5, result.seconds / 10), (calls, result.seconds)
    assert calls.keys() <= {"qsub", "qstat"}
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
