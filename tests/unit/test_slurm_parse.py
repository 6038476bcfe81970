"""What Slurm's commands print, read: on recorded output of every release."""

from __future__ import annotations

import pytest

from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.states import ExitReason, Outcome, Presence
from snakemake_executor_plugin_pipen_slurm import parse
from snakemake_executor_plugin_pipen_slurm.commands import by_cluster
from snakemake_executor_plugin_pipen_slurm.ends import (
    Facts,
    Standing,
    from_queue,
    refine,
    wants_accounting,
)

from .slurm_recorded import RELEASES, accounting_lines, index, queue_lines, recorded

pytestmark = pytest.mark.parametrize("release", RELEASES)


# -- the queue -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "presence"),
    [
        ("squeue-running", Presence.RUNNING),
        ("squeue-completing", Presence.RUNNING),
        ("squeue-requeued", Presence.PENDING),
        ("squeue-array-running", Presence.RUNNING),
        ("squeue-pending-array", Presence.PENDING),
        ("squeue-end-COMPLETED", Presence.GONE),
        ("squeue-end-TIMEOUT", Presence.GONE),
        ("squeue-end-NODE_FAIL", Presence.GONE),
        ("squeue-end-PREEMPTED", Presence.GONE),
        ("squeue-end-array-cancelled", Presence.GONE),
    ],
)
def test_presence(release: str, name: str, presence: Presence) -> None:
    entries = parse.queue(queue_lines(release, name))
    assert entries
    assert {entry.presence for entry in entries.values()} == {presence}


def test_array_tasks_have_entries_of_their_own(release: str) -> None:
    entries = parse.queue(queue_lines(release, "squeue-array-partly-cancelled"))
    base = next(iter(entries)).partition("_")[0]
    assert set(entries) == {f"{base}_{task}" for task in range(4)}
    assert entries[f"{base}_2"].presence is Presence.GONE
    assert entries[f"{base}_3"].presence is Presence.RUNNING
    assert entries[f"{base}_3"].nodes == "node2"


def test_reason_with_blanks_and_commas(release: str) -> None:
    (entry,) = parse.queue(queue_lines(release, "squeue-pending-node-down")).values()
    assert entry.reason.startswith("ReqNodeNotAvail, ")
    assert entry.dead_end is None, "the node may come back"


DEAD_ENDS = {"DependencyNeverSatisfied", "PartitionNodeLimit", "PartitionTimeLimit"}
DEAD_ENDS |= {"PartitionConfig", "AssocMaxCpuPerJobLimit"}


def test_waits_that_never_end_are_known(release: str) -> None:
    waiting = parse.queue(queue_lines(release, "squeue-pending-all"))
    waiting |= parse.queue(queue_lines(release, "squeue-pending-AssocMaxCpuPerJobLimit"))
    given_up = {entry.reason for entry in waiting.values() if entry.dead_end}
    assert given_up == DEAD_ENDS & {entry.reason for entry in waiting.values()}
    for entry in waiting.values():
        if entry.dead_end:
            assert entry.dead_end.reason is ExitReason.UNSCHEDULABLE
            assert entry.reason in entry.dead_end.detail
    assert len(given_up) >= 4


@pytest.mark.parametrize(
    "name",
    ["AssocGrpCpuLimit", "QOSMaxJobsPerUserLimit", "Licenses", "JobArrayTaskLimit", "Reservation"],
)
def test_waits_for_a_limit_end_some_time(release: str, name: str) -> None:
    entries = parse.queue(queue_lines(release, f"squeue-pending-{name}"))
    assert name in {entry.reason for entry in entries.values()}
    assert all(entry.dead_end is None for entry in entries.values())


@pytest.mark.parametrize("reason", ["launch failed requeued held", "launch_failed_requeued_held"])
def test_held_after_a_launch_that_failed(release: str, reason: str) -> None:
    (entry,) = parse.queue(f"7|PENDING||{reason}|name|\n").values()
    assert entry.dead_end is not None
    assert entry.dead_end.reason is ExitReason.LAUNCH_FAILURE


def test_nothing_and_noise(release: str) -> None:
    assert parse.queue(recorded(release, "squeue-empty.out")) == {}
    assert parse.queue("CLUSTER: pipentest\n7|RUNNING|n1|None|name|a|b\n").keys() == {"7"}


# -- ends ------------------------------------------------------------------------------

ENDS = {
    "DEADLINE": (ExitReason.TIMEOUT, None, "DEADLINE"),
    "TIMEOUT": (ExitReason.TIMEOUT, None, "TIMEOUT"),
    "OUT_OF_MEMORY": (ExitReason.SIGNAL, 137, "SIGKILL"),  # no cgroups: its output tells
    "FAILED-3": (ExitReason.LAUNCH_FAILURE, 3, "FAILED"),
    "FAILED-signal": (ExitReason.SIGNAL, 139, "SIGSEGV"),
    "FAILED-launch": (ExitReason.LAUNCH_FAILURE, None, "FAILED"),
    "CANCELLED-by-root": (ExitReason.CANCELLED, None, "by root"),
    "CANCELLED-pending-by-root": (ExitReason.CANCELLED, None, "by root"),
    "PREEMPTED": (ExitReason.PREEMPTED, None, "PREEMPTED"),
    "NODE_FAIL": (ExitReason.NODE_FAILURE, None, "node2"),
    "COMPLETED": (ExitReason.LOST, None, "COMPLETED"),
}


@pytest.mark.parametrize("name", ENDS)
def test_accounting(release: str, name: str) -> None:
    reason, rc, words = ENDS[name]
    (ended,) = parse.accounting(accounting_lines(release, f"sacct-end-{name}")).values()
    outcome = ended.outcome
    assert (outcome.reason, outcome.rc) == (reason, rc)
    assert words in outcome.detail


def test_accounting_names_who_cancelled_each_task(release: str) -> None:
    outcomes = parse.accounting(accounting_lines(release, "sacct-end-array-cancelled"))
    assert len(outcomes) == 4
    by_root = [jid for jid, end in outcomes.items() if "by root" in end.outcome.detail]
    assert len(by_root) == 3, "one task was cancelled by its owner"


def test_accounting_that_has_only_the_state_yet(release: str) -> None:
    """Registered after its cancellation; the record of its end says by whom, a moment later."""
    line = accounting_lines(release, "sacct-end-CANCELLED-by-root").strip()
    assert parse.accounting(line)
    jid, _, exit_code, nodes, _, *rest = line.split("|")
    early = "|".join([jid, "CANCELLED", exit_code, nodes, "Unknown", *rest])
    assert parse.accounting(early) == {}


@pytest.mark.parametrize(
    "name", ["sacct-running", "sacct-requeued", "sacct-completing", "sacct-unknown-job"]
)
def test_accounting_of_jobs_that_have_not_ended(release: str, name: str) -> None:
    outcomes = parse.accounting(accounting_lines(release, name))
    # Accounting may be ahead of slurmctld, which still cleans up.
    assert all(end.outcome.reason is ExitReason.CANCELLED for end in outcomes.values())
    if name != "sacct-completing":
        assert outcomes == {}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("OUT_OF_MEMORY", ExitReason.OUT_OF_MEMORY),
        ("TIMEOUT", ExitReason.TIMEOUT),
        ("PREEMPTED", ExitReason.PREEMPTED),
        ("NODE_FAIL", ExitReason.NODE_FAILURE),
        ("CANCELLED-by-self", ExitReason.CANCELLED),
        ("CANCELLED-by-root", ExitReason.CANCELLED),
        ("array-cancelled", ExitReason.CANCELLED),
        ("COMPLETED", None),
        ("FAILED-3", None),
        ("FAILED-signal", None),
    ],
)
def test_words_of_slurmstepd(release: str, name: str, reason: ExitReason | None) -> None:
    outcome = parse.step_message(recorded(release, f"output-end-{name}.out"))
    assert (outcome and outcome.reason) == reason


def test_words_of_a_command_are_not_those_of_slurmstepd(release: str) -> None:
    assert parse.step_message("*** CANCELLED AT noon DUE TO TIME LIMIT\noom-kill\n") is None


# -- how a job ended, put together -----------------------------------------------------


def facts(
    release: str, name: str, *, rc: int | None = None, started: bool = True, output: str = ""
) -> Facts:
    entries = parse.queue(queue_lines(release, f"squeue-{name}"))
    said = parse.step_message(recorded(release, f"output-{output or name}.out"))
    return Facts(next(iter(entries.values()), None), said, rc, started)


@pytest.mark.parametrize(
    ("name", "rc", "reason"),
    [
        ("end-TIMEOUT", 143, ExitReason.TIMEOUT),
        ("end-OUT_OF_MEMORY", 137, ExitReason.OUT_OF_MEMORY),
        ("end-OUT_OF_MEMORY", None, ExitReason.OUT_OF_MEMORY),
        ("end-CANCELLED-by-root", 143, ExitReason.CANCELLED),
        ("end-CANCELLED-pending-by-root", None, ExitReason.CANCELLED),
        ("end-NODE_FAIL", None, ExitReason.NODE_FAILURE),
        ("end-PREEMPTED", 143, ExitReason.PREEMPTED),
        ("end-DEADLINE", 143, ExitReason.TIMEOUT),
        ("end-FAILED-signal", 139, ExitReason.SIGNAL),
        ("end-FAILED-signal", None, ExitReason.LOST),
    ],
)
def test_queue_and_output_together(
    release: str, name: str, rc: int | None, reason: ExitReason
) -> None:
    known = facts(release, name, rc=rc)
    answer = from_queue(known)
    assert isinstance(answer, Outcome)
    outcome = refine(answer, known)
    assert outcome.reason is reason
    if rc is not None:
        assert outcome.rc == rc


def test_launch_failure_is_one_only_if_the_job_had_not_begun(release: str) -> None:
    known = facts(release, "end-FAILED-launch", started=False)
    answer = from_queue(known)
    assert isinstance(answer, Outcome)
    assert refine(answer, known).reason is ExitReason.LAUNCH_FAILURE
    assert wants_accounting(answer, known), "it has the exit code"


def test_deadline_of_a_job_that_waited(release: str) -> None:
    known = facts(release, "end-DEADLINE", started=False)
    answer = from_queue(known)
    assert isinstance(answer, Outcome)
    assert refine(answer, known).reason is ExitReason.UNSCHEDULABLE


def test_forgotten_job_is_known_by_what_slurmstepd_said(release: str) -> None:
    said = parse.step_message(recorded(release, "output-end-TIMEOUT.out"))
    assert from_queue(Facts(None, said, 143, True)) == said
    assert from_queue(Facts(None, None, None, False)) is None


def test_requeued_is_not_ended(release: str) -> None:
    waiting = facts(release, "requeued", rc=143, output="end-PREEMPTED")
    assert from_queue(waiting) is Standing.AGAIN
    runs_again = facts(release, "running", rc=None)
    assert from_queue(runs_again) is Standing.AGAIN
    # The wrapper has ended, slurmctld has not heard of it yet.
    assert from_queue(facts(release, "running", rc=143)) is Standing.UNSETTLED
    assert from_queue(facts(release, "completing", rc=None)) is Standing.UNSETTLED
    assert not wants_accounting(Standing.AGAIN, waiting)


# -- submission and refusals -----------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["single", "array", "clusters", "text", "dbd-down", "no-accounting-account"]
)
def test_submitted(release: str, name: str) -> None:
    base, cluster = parse.submitted_id(recorded(release, f"sbatch-{name}.out"))
    assert base.isdigit()
    assert cluster == ("pipentest" if name == "clusters" else "")


def test_submitted_with_lines_of_the_site_before_it(release: str) -> None:
    assert parse.submitted_id("Welcome to 42\nquota: 7 of 9\n123;big\n") == ("123", "big")
    with pytest.raises(SchedulerError, match="no job id"):
        parse.submitted_id("Submitted\n")


TRANSIENT = {
    "sbatch-controller-down",
    "sbatch-controller-hangs",
    "sbatch-dbd-down-clusters",
    "controller-down-config",
    "controller-down-scancel",
    "controller-down-scontrol",
    "controller-down-squeue",
    "controller-hangs-squeue",
    "dbd-down-sacct",
    "dbd-down-sacctmgr",
}
LIMITS = {"sbatch-submit-limit-association", "sbatch-submit-limit-qos"}


def test_every_refusal(release: str) -> None:
    """All that can pass is waited out; everything else is said at once, in Slurm's words."""
    seen = set()
    for name, entry in index(release).items():
        text = recorded(release, f"{name}.err")
        if not text or entry["status"] == 0:
            continue
        seen.add(name)
        error = parse.refusal(text, "sbatch")
        kind = type(error)
        if name in LIMITS:
            assert kind is parse.LimitReached, name
        elif name in TRANSIENT:
            assert kind is TransientError, name
        else:
            assert kind is SchedulerError, name
        assert str(error).startswith("sbatch: ")
        assert "error: " not in str(error)
    assert seen >= TRANSIENT | LIMITS
    assert len(seen) > 30


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ("AssocGrpSubmitJobsLimit", parse.LimitReached),
        ("QOSGrpSubmitJobsLimit", parse.LimitReached),
        ("MaxSubmitJobsPerAccount", parse.LimitReached),
        ("QOSMaxCpuPerJobLimit", SchedulerError),
        ("AssocMaxWallDurationPerJobLimit", SchedulerError),
    ],
)
def test_policy_that_forbids_the_job_itself(
    release: str, first: str, expected: type[Exception]
) -> None:
    """With DenyOnLimit the second line is the same, and waiting would be for ever."""
    _, second = recorded(release, "sbatch-submit-limit-qos.err").splitlines()
    error = parse.refusal(f"sbatch: error: {first}\n{second}\n", "sbatch")
    assert type(error) is expected


def test_refusal_without_words(release: str) -> None:
    assert str(parse.refusal("", "squeue")) == "squeue: no reason given"


def test_unknown_job_is_no_refusal_that_passes(release: str) -> None:
    text = recorded(release, "squeue-unknown-job.err")
    assert "invalid job id" in str(parse.refusal(text, "squeue")).lower()


# -- configuration and cancellation ----------------------------------------------------


def test_configuration(release: str) -> None:
    config = parse.configuration(recorded(release, "scontrol-config.out"))
    assert config["AccountingStorageType"] == "accounting_storage/slurmdbd"
    assert parse.largest_array(config) == 1001
    assert parse.largest_array(config | {"SchedulerParameters": "a,max_array_tasks=50,b=1"}) == 50
    assert parse.largest_array({"MaxArraySize": "0"}) == 1
    assert parse.largest_array({}) == 1001
    assert parse.kill_grace(config, 10.0) == 2.0
    assert parse.kill_grace({"KillWait": "30 sec"}, 10.0) == 10.0
    assert parse.kill_grace({"KillWait": "2 sec"}, 10.0) == 1.0
    assert parse.kill_grace({}, 10.0) == 10.0
    assert not parse.tracks_all(config | {"ProctrackType": "proctrack/linuxproc"})
    assert not parse.tracks_all({})
    assert parse.tracks_all(config | {"ProctrackType": "proctrack/cgroup"})


def test_arrays_are_cancelled_as_arrays(release: str) -> None:
    whole = {"8": 3}
    assert parse.compress(["8_0", "8_2", "8_1", "9"], whole) == ["9", "8"]
    assert parse.compress(["8_0", "8_2"], whole) == ["8_[0,2]"]
    assert parse.compress(["8_2"], whole) == ["8_2"]


def test_clusters(release: str) -> None:
    assert by_cluster(["7", "8_0;big", "8_1;big"]) == {
        "": {"7": "7"},
        "big": {"8_0": "8_0;big", "8_1": "8_1;big"},
    }


# -- what jobs used --------------------------------------------------------------------


def test_use_of_ended_jobs(release: str) -> None:
    (used,) = parse.used(recorded(release, "sacct-steps-end-OUT_OF_MEMORY.out")).values()
    assert 290 << 20 < (used.memory or 0) < 300 << 20
    assert 0.2 <= used.cpu < 0.3
    (used,) = parse.used(recorded(release, "sacct-steps-end-COMPLETED.out")).values()
    assert used.memory is None, "it was over before it was looked at"
    assert used.cpu == 0.002
    (used,) = parse.used(recorded(release, "sacct-steps-end-NODE_FAIL.out")).values()
    assert (used.cpu, used.memory) == (0, None)
    tasks = parse.used(recorded(release, "sacct-steps-end-array.out"))
    assert len(tasks) > 2
    assert all("_" in jid for jid in tasks)


def test_use_of_long_jobs(release: str) -> None:
    line = "7|COMPLETED|0:0|93784|1-02:03:04||4G|1\n7.batch|COMPLETED|0:0|93784|26:03:04|1.50G||1"
    assert parse.used(line) == {"7": parse.Used(93_784, 3 << 29)}
    running = "7|RUNNING|0:0|93784|00:00:00||4G|1"
    assert parse.used(running) == {}
