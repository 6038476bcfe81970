"""What Grid Engine's commands print, read: on recorded output of every release."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.states import ExitReason, Presence
from snakemake_executor_plugin_pipen_sge import accounting, parse, refusals

from .sge_recorded import RELEASES, index, recorded

pytestmark = pytest.mark.parametrize("release", RELEASES)


def by_name(release: str, name: str) -> dict[str, parse.QueueEntry]:
    """Return the entries of a recorded queue by the names of the jobs."""
    entries = parse.queue(recorded(release, f"{name}.out"))
    return {entry.name: entry for entry in entries.values()}


# -- the queue -------------------------------------------------------------------------


def test_array_tasks_have_entries_of_their_own(release: str) -> None:
    entries = parse.queue(recorded(release, "qstat-mixed.out"))
    tasks = {jid: entry for jid, entry in entries.items() if entry.name == "array"}
    (base,) = {jid.partition(".")[0] for jid in tasks}
    assert set(tasks) == {f"{base}.{task}" for task in range(1, 21)}
    assert tasks[f"{base}.1"].presence is Presence.RUNNING
    assert tasks[f"{base}.1"].queue == "all.q@localhost"
    assert tasks[f"{base}.20"].presence is Presence.PENDING
    assert tasks[f"{base}.20"].queue == ""


@pytest.mark.parametrize(
    ("name", "job", "presence"),
    [
        ("qstat-mixed", "running", Presence.RUNNING),
        ("qstat-mixed", "held", Presence.PENDING),
        ("qstat-suspended", "running", Presence.RUNNING),
        ("qstat-deleting", "deleted", Presence.RUNNING),
        ("qstat-requeued", "again", Presence.PENDING),
        ("qstat-errors", "badwd", Presence.PENDING),
        ("qstat-execd-lost", "lost", Presence.RUNNING),
        ("qstat-execd-lost-deleted", "lost", Presence.RUNNING),
    ],
)
def test_presence(release: str, name: str, job: str, presence: Presence) -> None:
    assert by_name(release, name)[job].presence is presence


def test_flags_of_a_state(release: str) -> None:
    assert by_name(release, "qstat-mixed")["held"].is_held
    assert by_name(release, "qstat-deleting")["deleted"].is_deleted
    assert by_name(release, "qstat-requeued")["again"].is_requeued
    errors = parse.queue(recorded(release, "qstat-errors.out"))
    assert len(errors) == 6
    assert all(entry.is_error for entry in errors.values())
    for entry in by_name(release, "qstat-mixed").values():
        assert not entry.is_error
        assert not entry.is_deleted


def test_empty_queue(release: str) -> None:
    assert parse.queue(recorded(release, "qstat-empty.out")) == {}


def test_jobs_on_silent_hosts(release: str) -> None:
    entries = parse.queue(recorded(release, "qstat-unknown-hosts.out"))
    assert [entry.name for entry in entries.values()] == ["lost"]


@pytest.mark.parametrize("text", ["", "error: something", "<job_info><queue_info>"])
def test_unreadable_queue_says_nothing_about_any_job(release: str, text: str) -> None:
    with pytest.raises(TransientError):
        parse.queue(text)


def test_control_characters_in_names(release: str) -> None:
    text = recorded(release, "qstat-mixed.out").replace("held", "he\x07ld")
    assert "he?ld" in {entry.name for entry in parse.queue(text).values()}


@pytest.mark.parametrize("name", ["qstat-j-badwd", "qstat-j-two-errors", "qstat-j-badtasks"])
def test_reasons_of_errors(release: str, name: str) -> None:
    reasons = parse.error_reasons(recorded(release, f"{name}.out"))
    assert len(reasons) == {"badwd": 1, "two-errors": 2, "badtasks": 3}[name[8:]]
    first = next(iter(reasons.values()))
    assert first == "can't chdir to /nonexistent: No such file or directory"
    assert "can't open output file" in [*reasons.values()][-1] or name != "qstat-j-two-errors"


def test_no_reasons(release: str) -> None:
    assert parse.error_reasons(recorded(release, "qstat-j-held.out")) == {}


# -- submission --------------------------------------------------------------------------


def test_submitted_id(release: str) -> None:
    assert parse.submitted_id(recorded(release, "qsub-single.out")).isdigit()
    assert "." not in parse.submitted_id(recorded(release, "qsub-array.out"), array=True)
    assert parse.submitted_id("Welcome!\n17.1-4:1\n", array=True) == "17"
    with pytest.raises(parse.UnaskedArray, match="sge_request") as raised:
        parse.submitted_id("17.1-4:1\n")
    assert raised.value.jid == "17"
    said = 'Your job-array 613815.1-4:1 ("x") has been submitted\n'
    assert parse.submitted_id(said) == "613815"
    with pytest.raises(SchedulerError, match="no job id"):
        parse.submitted_id("Welcome!")


def refused(release: str, name: str) -> SchedulerError:
    """Return what a recorded refusal is read as."""
    entry = index(release)[name]
    command = entry["command"].split()[0]
    text = recorded(release, f"{name}.err") + recorded(release, f"{name}.out")
    return refusals.refusal(text, command, entry["status"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unknown-queue", 'requests unknown queue "nosuch.q"'),
        ("unknown-resource", 'unknown resource "nosuch"'),
        ("unknown-environment", 'parallel environment "nosuch" does not exist'),
        ("unknown-project", 'project "nosuch" does not exist'),
        ("unknown-host", 'can\'t resolve hostname "nosuch"'),
        ("invalid-value", '"h_rt" is not a time value'),
        ("invalid-option", 'invalid option argument "-nosuch"'),
        ("invalid-name", "must not contain /"),
    ],
)
def test_permanent_refusals(release: str, name: str, words: str) -> None:
    error = refused(release, f"qsub-{name}")
    assert type(error) is SchedulerError
    assert words in str(error)
    assert str(error).startswith("qsub: ")
    assert "Exiting" not in str(error)


@pytest.mark.parametrize(
    "name",
    [
        "qsub-qmaster-down",
        "qstat-qmaster-down",
        "qstat-j-qmaster-down",
        "qdel-qmaster-down",
        "qconf-qmaster-down",
    ],
)
def test_qmaster_down_is_transient(release: str, name: str) -> None:
    error = refused(release, name)
    assert isinstance(error, TransientError)
    assert not isinstance(error, refusals.LimitReached)
    assert "unable to send message to qmaster" in str(error)


def test_limits_of_submission(release: str) -> None:
    assert isinstance(refused(release, "qsub-limit-user"), refusals.LimitReached)
    for name, most in (("qsub-array-over-max", 75000), ("qsub-array-over-small-max", 10)):
        error = refused(release, name)
        assert isinstance(error, refusals.TooManyTasks)
        assert error.most == most


@pytest.mark.parametrize("name", ["never-slots", "never-memory", "load-value"])
def test_jobs_that_can_never_run(release: str, name: str) -> None:
    assert isinstance(refused(release, f"qsub-{name}"), refusals.NoSuitableQueue)


@pytest.mark.parametrize(
    ("name", "reasons", "unknown", "away"),
    [
        ("slots", "it only offers 0 slots", set(), False),
        ("too-many", "it offers only hc:licence=2.000000", set(), False),
        ("unknown", "unknown resource (gpu)", {"gpu"}, False),
        ("unknown-now", "unknown resource (gpu)", {"gpu"}, False),
        ("load-value", "unknown resource (mem_free)", {"mem_free"}, False),
        ("now-execd-lost", "it is temporarily not available", set(), True),
    ],
)
def test_why_no_queue_is_suitable(
    release: str, name: str, reasons: str, unknown: set[str], away: bool
) -> None:
    error = refused(release, f"qsub-verify-{name}")
    assert isinstance(error, refusals.NoSuitableQueue)
    assert (error.reasons, error.unknown, error.away) == (reasons, unknown, away)


def test_many_reasons_are_cut_short(release: str) -> None:
    said = "; ".join(f"Job 1 cannot run because it offers only hl:x={n}" for n in range(9))
    error = refusals.NoSuitableQueue("qsub: no suitable queues", said)
    assert error.reasons == "it offers only hl:x=0, it offers only hl:x=1, it offers only hl:x=2, …"


def test_unknown_job_and_qmaster_down_differ_only_in_their_words(release: str) -> None:
    assert not isinstance(refused(release, "qstat-j-unknown"), TransientError)
    assert "does not exist" in str(refused(release, "qdel-unknown"))
    assert "does not exist" in str(refused(release, "qdel-known-and-unknown"))
    assert not isinstance(refused(release, "qacct-unknown"), TransientError)
    assert not isinstance(refused(release, "qacct-no-file"), TransientError)


# -- accounting ----------------------------------------------------------------------------


def record(release: str, name: str) -> accounting.Record:
    """Return the one record of a recording."""
    (found,) = accounting.read(recorded(release, f"qacct-{name}.out"))
    return found


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("h_rt", ExitReason.TIMEOUT, "over h_rt=2; Grid Engine says failed 37 : qmaster enforced"),
        ("s_rt", ExitReason.TIMEOUT, "over s_rt=2; Grid Engine says failed 100"),
        ("deleted", ExitReason.CANCELLED, "SIGKILL on localhost: deleted (qdel)"),
        ("kill", ExitReason.CANCELLED, "SIGKILL on localhost"),
        ("signal", ExitReason.SIGNAL, "SIGSEGV on localhost"),
        ("badwd", ExitReason.LAUNCH_FAILURE, "failed 28 : changing into working directory"),
        ("hundred", ExitReason.LAUNCH_FAILURE, "failed 30 : application error returned"),
        ("exit-3", ExitReason.LAUNCH_FAILURE, "exit status 3 before the job's own script ran"),
        ("ok", ExitReason.LOST, "failed 0, exit status 0"),
        ("requeued", ExitReason.PREEMPTED, "failed 25 : rescheduling"),
    ],
)
def test_endings(release: str, name: str, reason: ExitReason, words: str) -> None:
    outcome = accounting.ending(record(release, name), {})
    assert outcome.reason is reason
    assert words in outcome.detail


def test_memory_limit_is_told_from_the_time_limit(release: str) -> None:
    """The recorded end for h_rt, as it would be for h_vmem."""
    text = recorded(release, "qacct-h_rt.out").replace("h_rt=2", "h_rt=3600,h_vmem=4.5M")
    (found,) = accounting.read(text)
    outcome = accounting.ending(found, {})
    assert outcome.reason is ExitReason.OUT_OF_MEMORY
    assert "over h_vmem=4.5M" in outcome.detail


def test_limits_where_accounting_does_not_have_them(release: str) -> None:
    """The category of a job is not in the accounting of every release."""
    found = replace(record(release, "h_rt"), category="")
    assert "over h_rt=2;" in accounting.ending(found, {"h_rt": "2"}).detail
    assert "over a limit of the queue or the job" in accounting.ending(found, {}).detail


def test_records_of_arrays_and_of_all_jobs(release: str) -> None:
    tasks = accounting.read(recorded(release, "qacct-array.out"))
    assert sorted(entry.exit_status for entry in tasks) == [1, 2, 3]
    assert {entry.jid.partition(".")[2] for entry in tasks} == {"1", "2", "3"}
    everything = accounting.read(recorded(release, "qacct-all.out"))
    assert {"h_rt", "deleted", "array"} <= {entry.name for entry in everything}


def test_fields_of_a_record(release: str) -> None:
    found = record(release, "h_vmem")
    assert found.name == "h_vmem"
    assert found.limit("h_vmem") == "200M"
    assert found.limit("h_rt") == ""
    assert found.submitted is not None
    assert abs(found.submitted - record(release, "h_rt").submitted) < 60  # type: ignore[operator]


def test_no_record(release: str) -> None:
    assert accounting.read(recorded(release, "qacct-deleted-pending.out")) == []
    assert accounting.unrecorded(started=False).reason is ExitReason.CANCELLED
    assert accounting.unrecorded(started=True).reason is ExitReason.LOST


def test_delay_of_accounting(release: str) -> None:
    configuration = parse.table(recorded(release, "qconf-sconf.out"))
    assert accounting.delay(configuration) == 0
    assert accounting.delay({"reporting_params": "accounting=true flush_time=00:00:15"}) == 15
    assert accounting.delay({}) == 15


# -- the rest --------------------------------------------------------------------------------


def test_obvious_environment(release: str) -> None:
    rules = {
        name: parse.table(recorded(release, f"qconf-sp-{name}.out"))["allocation_rule"]
        for name in recorded(release, "qconf-spl.out").split()
    }
    assert rules == {"make": "$round_robin", "smp": "$pe_slots"}
    assert parse.obvious_environment(rules) == "smp"
    assert parse.obvious_environment({**rules, "other": "$pe_slots"}) is None
    assert parse.obvious_environment({"make": "$round_robin"}) is None


def test_amounts(release: str) -> None:
    assert accounting.in_bytes("4.5MB") == 4.5 * 1024**2
    assert accounting.in_bytes("2G") == 2 * 1024**3
    assert accounting.in_bytes("0.000B") == 0
    assert accounting.in_seconds("1:0:5") == 3605
    assert accounting.in_seconds("90") == 90
    assert accounting.parse_time("11/22/2026 05:59:25.123") is not None
    assert accounting.parse_time("-/-") is None


def test_compress(release: str) -> None:
    jids = ["7", "8.1", "8.2", "9.1", "9.2", "9.4"]
    assert parse.compress(jids, {"8": 2, "9": 4}) == ["7", "8", "9.1-2", "9.4"]
    assert list(parse.tasks_of("3,5-9:2")) == [3, 5, 7, 9]


@pytest.mark.parametrize(
    "line",
    [
        "MemoryError",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "bash: fork: Cannot allocate memory",
        "Error: cannot allocate vector of size 762.9 Mb",
        "java.lang.OutOfMemoryError: Java heap space",
        "Out of memory in perl:toke",
    ],
)
def test_commands_that_got_no_memory(release: str, line: str) -> None:
    assert accounting.no_memory(["first", line, "last"]) == line
    assert accounting.no_memory(["first", "last"]) == ""


def test_use_of_ended_jobs(release: str) -> None:
    known = record(release, "ok")
    real = accounting.used(known, virtual=False)
    assert 3 << 20 < real["memory"] < 10 << 20, "a bash: 8.1.9 prints its kilobytes as bytes"
    assert real["memory_by"] == "largest process"
    assert accounting.used(known, virtual=True) == {"cpu": known.cpu}, "over before it was seen"
    seen = max(accounting.read(recorded(release, "qacct-all.out")), key=lambda r: r.memory)
    assert accounting.used(seen, virtual=True)["memory"] == round(seen.memory) > 4 << 20
