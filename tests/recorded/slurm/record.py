"""Record what a real Slurm answers, for the tests of the parsers.

Run it again, as root, for another release of Slurm (three to four minutes)::

    python -m tests.recorded.slurm.record

It brings clusters up by `tests.services.slurm`, gets jobs into every state that one machine can
produce, and writes below a directory named after the release: ``<name>.out`` and ``<name>.err``
(standard output and error, byte for byte but for what says on which machine it was), and an
``index.json`` and a README with each one's exact command and exit status.
"""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from tests.services.common import wait_until
from tests.services.slurm import ACCOUNT, SlurmCluster
from tests.services.slurm_config import host_name
from tests.services.users import TEST_USER

HERE = Path(__file__).resolve().parent

SQUEUE = ("squeue", "--me", "--noheader", "--array")
# Of -o all releases know every field. Free text, which may hold the delimiter, comes last.
SQUEUE_SHORT = "--format=%i|%F|%K|%T|%S|%N|%r|%k"
SQUEUE_NAMED = "--format=%i|%T|%r|%j"
# The restart count is known to -O only.
SQUEUE_LONG = (
    "--Format=JobArrayID:|,ArrayJobID:|,ArrayTaskID:|,State:|,RestartCnt:|,StartTime:|,"
    "NodeList:|,Reason:|,Comment:|"
)
SACCT = (
    "sacct",
    "-X",
    "-n",
    "-P",
    "--format=JobID,State,ExitCode,DerivedExitCode,Reason,NodeList,Start,End,ElapsedRaw,Comment",
)
SACCT_STEPS = (
    "sacct",
    "-n",
    "-P",
    "--format=JobID,State,ExitCode,ElapsedRaw,TotalCPU,MaxRSS,ReqMem,AllocCPUS",
)
CONFIG_LINES = (
    "AccountingStorageEnforce",
    "AccountingStorageType",
    "ClusterName",
    "JobRequeue",
    "KillWait",
    "MaxArraySize",
    "MaxJobCount",
    "MessageTimeout",
    "MinJobAge",
    "SLURM_VERSION",
    "SchedulerParameters",
)


class Recorder:
    """Runs client commands and keeps what they answer."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.index: dict[str, dict[str, object]] = {}
        self.cluster: SlurmCluster

    def record(
        self,
        name: str,
        *argv: str,
        note: str = "",
        user: str = TEST_USER,
        stdin: str = "",
        keep: Callable[[str], bool] = lambda line: True,
    ) -> str:
        """Run a command, keep its answer as ``name``, and return its standard output."""
        start = time.monotonic()
        result = self.cluster.run(*argv, user=user, check=False, stdin=stdin, timeout=120)
        entry: dict[str, object] = {
            "command": self._neutral(shlex.join(argv)),
            "user": user,
            "status": result.returncode,
            "seconds": round(time.monotonic() - start, 1),
        }
        if note:
            entry["note"] = note
        self.index[name] = entry
        stdout = "".join(line for line in result.stdout.splitlines(keepends=True) if keep(line))
        (self.directory / f"{name}.out").write_text(self._neutral(stdout))
        if result.stderr:
            (self.directory / f"{name}.err").write_text(self._neutral(result.stderr))
        return result.stdout

    def submit(
        self, *options: str, user: str = TEST_USER, script: str = "sleep 600", check: bool = True
    ) -> str:
        """Submit a job and return its id; without ``check`` it is empty for one refused."""
        argv = ("sbatch", "--parsable", f"--output={self._output('%j')}", *options)
        text = f"#!/bin/sh\n{script}\n"
        return self.cluster.run(*argv, user=user, stdin=text, check=check).stdout.strip()

    def output(self, name: str, jobid: str) -> None:
        """Record what a job's output holds, which is what Slurm itself wrote there."""
        file = self._output(jobid)
        if file.exists():
            self.record(f"output-{name}", "cat", str(file))

    def _output(self, jobid: str) -> Path:
        return self.cluster.scratch / f"output-{jobid}"

    def sbatch(self, name: str, *options: str, note: str = "", user: str = TEST_USER) -> str:
        """Record a submission and return the job's id, if any."""
        argv = ("sbatch", "--parsable", "--output=/dev/null", *options, "--wrap=sleep 600")
        return self.record(f"sbatch-{name}", *argv, note=note, user=user).strip().split(";")[0]

    def queue(self, name: str, jobids: list[str], note: str = "") -> None:
        """Record what the queue says of some jobs, in each of the formats."""
        jobs = f"--jobs={','.join(jobids)}"
        self.record(f"squeue-{name}", *SQUEUE, "--states=all", SQUEUE_SHORT, jobs, note=note)
        self.record(f"squeue-long-{name}", *SQUEUE, "--states=all", SQUEUE_LONG, jobs, note=note)
        self.scontrol(name, jobids, note=note)

    def scontrol(self, name: str, jobids: list[str], note: str = "") -> None:
        """Record what slurmctld knows of each job; scontrol takes one id at a time."""
        for number, jobid in enumerate(jobids, 1):
            suffix = f"-{number}" if len(jobids) > 1 else ""
            self.record(
                f"scontrol-{name}{suffix}", "scontrol", "show", "job", "-o", jobid, note=note
            )

    def write_index(self, release: str) -> None:
        """Write the index and the README."""
        text = json.dumps(self.index, indent=1, sort_keys=True)
        (self.directory / "index.json").write_text(text + "\n")
        lines = [
            f"# Output of Slurm {release}",
            "",
            "Recorded by `tests/recorded/slurm/record.py` from a Slurm of Debian's packages on one",
            "machine; not edited, except that the host's name reads `head` and the cluster's",
            "directory `/lab`. `<name>.out` is standard output, `<name>.err` standard error.",
            "",
            "| name | exit | seconds | command | note |",
            "|---|---|---|---|---|",
        ]
        for name, entry in sorted(self.index.items()):
            command = str(entry["command"]).replace("|", "\\|")
            note = str(entry.get("note", "")).replace("|", "\\|")
            lines.append(
                f"| {name} | {entry['status']} | {entry['seconds']} | `{command}` | {note} |"
            )
        (self.directory / "README.md").write_text("\n".join(lines) + "\n")

    def _neutral(self, text: str) -> str:
        text = text.replace(str(self.cluster.base), "/lab")
        host = host_name()
        return text.replace(f"={host}:", "=head:").replace(f" at {host} ", " at head ")


def cancel_all(cluster: SlurmCluster) -> None:
    """Cancel every job, and wait until the queue is empty."""
    cluster.run("scancel", "--user", TEST_USER)
    cluster.wait_idle()


def record_submissions(rec: Recorder) -> None:
    """Record what sbatch says."""
    rec.sbatch("single")
    rec.sbatch("array", "--array=0-3%2")
    rec.sbatch("clusters", "--clusters=pipentest", note="id;cluster")
    text = rec.sbatch("text", "--hold", "--job-name=a b|c;d", "--comment=x|y 'z' ü")
    rec.queue("text", [text])
    rec.record("squeue-named-text", *SQUEUE, SQUEUE_NAMED, f"--jobs={text}")
    rec.sbatch("time-over-partition", "--partition=short", "--time=10")
    rec.sbatch("too-many-nodes", "--nodes=5")
    rec.sbatch("too-many-cpus", "--cpus-per-task=100")
    rec.sbatch("dependency-unknown-job", "--dependency=afterok:99999")
    for name, *options in (
        ("invalid-partition", "--partition=nope"),
        ("inactive-partition", "--partition=asleep"),
        ("invalid-account", "--account=nope"),
        ("invalid-qos", "--qos=nope"),
        ("invalid-reservation", "--reservation=nope"),
        ("invalid-gres", "--gres=nope:1"),
        ("unavailable-gres", "--gres=gpu:99"),
        ("unavailable-gpu-model", "--gres=gpu:nope:1"),
        ("invalid-feature", "--constraint=nope"),
        ("invalid-node", "--nodelist=nope"),
        ("invalid-cluster", "--clusters=nope"),
        ("invalid-option", "--nope"),
        ("invalid-time", "--time=abc"),
        ("invalid-memory", "--mem=4X"),
        ("invalid-dependency", "--dependency=nope"),
        ("too-much-memory", "--mem=1T"),
        ("array-over-max", "--array=0-5000"),
        ("deadline-too-early", "--time=10", "--deadline=now+2minutes"),
        ("submit-limit-association", "--account=tight", "--array=0-2"),
        ("submit-limit-qos", "--qos=tight", "--array=0-2"),
        ("memory-over-limit", "--account=narrow", "--mem=2G"),
    ):
        rec.sbatch(name, *options)
    rec.record("sbatch-no-shebang", "sbatch", "--parsable", stdin="true\n")
    rec.record("sbatch-empty-script", "sbatch", "--parsable")
    rec.record("sbatch-missing-script", "sbatch", "--parsable", "missing.sh")
    rec.record("sbatch-mem-and-mem-per-cpu", *mem_twice())
    rec.record(
        "squeue-after-rejected",
        *SQUEUE,
        "--states=FAILED",
        SQUEUE_SHORT,
        note="a submission that was refused for its constraints still leaves a failed job",
    )


def mem_twice() -> tuple[str, ...]:
    """Return a submission whose options exclude each other."""
    return ("sbatch", "--parsable", "--mem=100", "--mem-per-cpu=100", "--hold", "--wrap=true")


def record_pending(rec: Recorder) -> None:
    """Record why jobs wait."""
    cluster = rec.cluster
    failed = rec.submit(script="exit 1")
    cluster.wait_state(failed, "FAILED")
    cluster.drain("node2")
    fill = rec.submit("--nodelist=node1", "--cpus-per-task=4")
    cluster.wait_state(fill, "RUNNING")
    waiting = {
        "Resources": [rec.submit("--exclusive", "--comment=first in line")],
        "Priority": [rec.submit()],
        "Dependency": [rec.submit(f"--dependency=afterok:{fill}")],
        "DependencyNeverSatisfied": [rec.submit(f"--dependency=afterok:{failed}")],
        "PartitionTimeLimit": [rec.submit("--partition=short", "--time=10")],
        "PartitionNodeLimit": [rec.submit("--partition=one", "--nodes=2")],
        "PartitionDown": [rec.submit("--partition=off")],
        # Newer releases refuse it.
        "PartitionConfig": [rec.submit("--cpus-per-task=100", check=False)],
        "ReqNodeNotAvail": [rec.submit("--nodelist=node2", "--partition=side")],
        "JobHeldUser": [rec.submit("--hold")],
        "JobHeldAdmin": [rec.submit("--hold")],
        "BeginTime": [rec.submit("--begin=now+1hour")],
        "Reservation": [rec.submit("--reservation=later")],
        "array": [rec.submit("--array=1-5,9%2")],
    }
    cluster.run("scontrol", "hold", waiting["JobHeldAdmin"][0])
    # The scheduler fills the reasons in pass by pass (bf_interval, sched_interval).
    wait_until(lambda: none_unseen(rec), "every job to have a reason", timeout=60, interval=0.5)
    rec.record("squeue-pending-all", *SQUEUE, SQUEUE_SHORT)
    rec.record("squeue-long-pending-all", *SQUEUE, SQUEUE_LONG)
    rec.record("squeue-pending-unexpanded", "squeue", "--me", "--noheader", SQUEUE_SHORT)
    for name, jobids in waiting.items():
        if all(jobids):
            rec.queue(f"pending-{name}", jobids)
    cluster.node_resume("node2")
    cancel_all(cluster)


def record_limits(rec: Recorder) -> None:
    """Record jobs that wait for a limit while the nodes have room."""
    cluster = rec.cluster
    limited = {
        "AssocGrpCpuLimit": ["--account=grp", "--cpus-per-task=2"],
        "QOSMaxJobsPerUserLimit": ["--qos=one"],
        "Licenses": ["--licenses=tool:2"],
        "JobArrayTaskLimit": ["--array=1-5,9%1"],
    }
    jobids = {name: [rec.submit(*options)] for name, options in limited.items()}
    first = {name: ids[0] + "_1" * ("Array" in name) for name, ids in jobids.items()}
    for jobid in first.values():
        cluster.wait_state(jobid, "RUNNING")
    for name in ("AssocGrpCpuLimit", "QOSMaxJobsPerUserLimit", "Licenses"):
        jobids[name].append(rec.submit(*limited[name]))
    jobids["AssocMaxCpuPerJobLimit"] = [rec.submit("--account=narrow", "--cpus-per-task=2")]
    wait_until(lambda: none_unseen(rec), "every job to have a reason", timeout=60, interval=0.5)
    for name, ids in jobids.items():
        rec.queue(f"pending-{name}", ids)
    cancel_all(cluster)


def none_unseen(rec: Recorder) -> bool:
    """Tell whether the scheduler has looked at every pending job."""
    reasons = rec.cluster.run("squeue", "-h", "-t", "PENDING", "-o", "%r").stdout.split()
    return "None" not in reasons


def record_ends(rec: Recorder) -> None:
    """Record jobs that end in every way, first those that need the longest."""
    cluster = rec.cluster
    ended: dict[str, str] = {}
    # A deadline is looked at when the scheduler looks at the job: let it wait for a licence.
    holder = rec.submit("--licenses=tool:2")
    cluster.wait_state(holder, "RUNNING")
    late = ("--licenses=tool:2", "--time=1", "--deadline=now+70seconds")
    ended["DEADLINE"] = rec.submit(*late)
    ended["TIMEOUT"] = rec.submit("--partition=short", "--time=1", "--nodelist=node1")
    stubborn = "trap '' TERM\nwhile :; do sleep 1; done"
    ended["OUT_OF_MEMORY"] = rec.submit(
        "--mem=50", script="exec python3 -c 'import time; x = b\"x\" * 300000000; time.sleep(600)'"
    )
    ended["COMPLETED"] = rec.submit("--job-name=name with | and blanks", script="exit 0")
    ended["FAILED-3"] = rec.submit(script="exit 3")
    ended["FAILED-signal"] = rec.submit(script="kill -SEGV $$")
    ended["FAILED-launch"] = rec.submit("--output=/missing/x", script="exit 0")
    ended["array"] = rec.submit("--array=0-3", script="exit $SLURM_ARRAY_TASK_ID")
    for name in ("COMPLETED", "FAILED-3", "FAILED-signal", "FAILED-launch"):
        cluster.wait_state(ended[name], "COMPLETED", "FAILED", "NODE_FAIL")
    running = rec.submit()
    cluster.wait_state(running, "RUNNING")
    rec.queue("running", [running])
    rec.record("sacct-running", *SACCT, "-j", running)
    ended["CANCELLED-by-self"] = running
    rec.record("scancel-running", "scancel", running)
    pending = rec.submit("--hold")
    ended["CANCELLED-pending-by-root"] = pending
    rec.record("scancel-other-user", "scancel", pending, user="nobody")
    cluster.cancel(pending)
    by_root = rec.submit()
    cluster.wait_state(by_root, "RUNNING")
    cluster.cancel(by_root)
    ended["CANCELLED-by-root"] = by_root
    slow = rec.submit(script=stubborn)
    cluster.wait_state(slow, "RUNNING")
    cluster.cancel(slow)
    cluster.wait_state(slow, "COMPLETING")
    rec.queue("completing", [slow])
    rec.record("sacct-completing", *SACCT, "-j", slow)
    ended["CANCELLED-killed"] = slow
    part = rec.submit("--array=0-3", script="sleep 600")
    cluster.wait_state(f"{part}_2", "RUNNING")
    rec.queue("array-running", [part])
    rec.record("scancel-array-task", "scancel", f"{part}_2")
    cluster.wait_state(f"{part}_2", "CANCELLED")
    rec.queue("array-partly-cancelled", [part])
    cluster.cancel(part)
    ended["array-cancelled"] = part
    ended["PREEMPTED"] = rec.submit("--partition=low", "--nodelist=node2", "--exclusive")
    cluster.wait_state(ended["PREEMPTED"], "RUNNING")
    high = rec.submit("--partition=high", "--nodelist=node2", "--exclusive")
    cluster.wait_state(ended["PREEMPTED"], "PREEMPTED", timeout=120)
    cluster.wait_state(high, "RUNNING")
    ended["NODE_FAIL"] = high
    again = rec.submit("--requeue", "--nodelist=node1")
    cluster.wait_state(again, "RUNNING")
    rec.cluster.run("scontrol", "requeue", again)
    cluster.wait_state(again, "PENDING")
    rec.queue("requeued", [again])
    rec.record("sacct-requeued", *SACCT, "-j", again)
    rec.record("sacct-requeued-duplicates", *SACCT, "--duplicates", "-j", again)
    moved = rec.submit("--requeue", "--nodelist=node2", "--partition=high", "--oversubscribe")
    cluster.node_down("node2")
    cluster.wait_state(high, "NODE_FAIL")
    rec.queue("pending-node-down", [moved])
    cluster.cancel(again)
    cluster.cancel(moved)
    cluster.node_resume("node2")
    for name, state in (("OUT_OF_MEMORY", "OUT_OF_MEMORY"), ("TIMEOUT", "TIMEOUT")):
        cluster.wait_state(ended[name], state, "FAILED", "CANCELLED", timeout=150)
    cluster.wait_state(ended["DEADLINE"], "DEADLINE", timeout=150)
    cluster.cancel(holder)
    cluster.wait_idle()
    everything = ",".join(ended.values())
    wait_until(lambda: settled(rec, everything), "the accounting records", timeout=60, interval=0.5)
    rec.record("sacct-ends-all", *SACCT, "-j", everything)
    for name, jobid in ended.items():
        rec.queue(f"end-{name}", [jobid])
        rec.record(f"sacct-end-{name}", *SACCT, "-j", jobid)
        rec.record(f"sacct-steps-end-{name}", *SACCT_STEPS, "-j", jobid)
        rec.output(f"end-{name}", jobid)
    rec.record("scancel-finished", "scancel", ended["COMPLETED"])
    rec.record("squeue-empty", *SQUEUE, SQUEUE_SHORT)
    rec.record(
        "squeue-json",
        "squeue",
        "--json",
        note="with the finished jobs that slurmctld still knows",
    )


def settled(rec: Recorder, jobids: str) -> bool:
    """Tell whether accounting has every job's end."""
    states = rec.cluster.run("sacct", "-X", "-n", "-P", "-o", "State", "-j", jobids).stdout
    return not any(word in states for word in ("RUNNING", "PENDING", "COMPLETING"))


def record_errors(rec: Recorder) -> None:
    """Record what unknown jobs and absent daemons lead to."""
    cluster = rec.cluster
    known = rec.submit("--hold")
    rec.record("squeue-unknown-job", *SQUEUE, SQUEUE_SHORT, "--jobs=99999")
    rec.record("squeue-known-and-unknown-job", *SQUEUE, SQUEUE_SHORT, f"--jobs={known},99999")
    rec.record("squeue-two-unknown-jobs", *SQUEUE, SQUEUE_SHORT, "--jobs=99998,99999")
    rec.record("sacct-unknown-job", *SACCT, "-j", "99999")
    rec.record("scontrol-unknown-job", "scontrol", "show", "job", "-o", "99999")
    rec.record("scancel-unknown-job", "scancel", "99999")
    rec.record("scancel-known-and-unknown-job", "scancel", known, "99999")
    rec.record("scancel-invalid-job", "scancel", "abc")
    rec.record(
        "scontrol-config",
        "scontrol",
        "show",
        "config",
        keep=lambda line: line.split("=")[0].strip() in CONFIG_LINES,
        note=f"the lines {', '.join(CONFIG_LINES)}",
    )
    rec.record("scontrol-ping", "scontrol", "ping")
    cluster.stop_dbd()
    rec.record("dbd-down-sacct", *SACCT, "-j", known)
    rec.sbatch("dbd-down")
    rec.record("dbd-down-sacctmgr", "sacctmgr", "-n", "-P", "show", "cluster")
    rec.sbatch("dbd-down-clusters", "--clusters=pipentest")
    cluster.start_dbd()
    cluster.stop_controller()
    rec.sbatch("controller-down")
    rec.record("controller-down-squeue", *SQUEUE, SQUEUE_SHORT)
    rec.record("controller-down-scontrol", "scontrol", "show", "job", "-o", known)
    rec.record("controller-down-config", "scontrol", "show", "config")
    rec.record("controller-down-scancel", "scancel", known)
    rec.record("controller-down-ping", "scontrol", "ping")
    rec.record("controller-down-sacct", *SACCT, "-j", known)
    cluster.start_controller()
    cluster.hang_controller()
    rec.sbatch("controller-hangs", note="the job may have been accepted all the same")
    rec.record("controller-hangs-squeue", *SQUEUE, SQUEUE_SHORT)
    cluster.wake_controller()


def record_place(rec: Recorder) -> None:
    """Record what says which partitions and accounts there are."""
    rec.record("version", "sbatch", "--version")
    rec.record("sinfo", "sinfo", "--noheader", "--format=%R|%a|%l|%c|%m|%D|%P")
    for name, user in (("", TEST_USER), ("-nobody", "nobody")):
        rec.record(
            f"sacctmgr-user{name}",
            *("sacctmgr", "--noheader", "--parsable2", "show", "user", "withassoc"),
            *(f"name={user}", "format=Account,Partition,QOS,DefaultAccount"),
        )


def record_without_accounting(rec: Recorder) -> None:
    """Record what is left of finished jobs where nothing is stored."""
    cluster = rec.cluster
    done = rec.submit(script="exit 3")
    cluster.wait_state(done, "FAILED")
    rec.queue("no-accounting-finished", [done], note="within MinJobAge")
    rec.record("no-accounting-sacct", *SACCT, "-j", done)
    rec.record("no-accounting-sacctmgr", "sacctmgr", "-n", "-P", "show", "cluster")
    rec.sbatch("no-accounting-account", "--account=nope")
    rec.sbatch("no-accounting-clusters", "--clusters=pipentest")
    wait_until(lambda: not cluster.job_state(done), "slurmctld to forget", timeout=120, interval=1)
    rec.record(
        "squeue-no-accounting-forgotten", *SQUEUE, "--states=all", SQUEUE_SHORT, f"--jobs={done}"
    )
    rec.record("scontrol-no-accounting-forgotten", "scontrol", "show", "job", "-o", done)


def add_limits(cluster: SlurmCluster) -> None:
    """Give accounts and qualities of service limits that jobs can run into."""
    add = ("sacctmgr", "-i", "add")
    for account, limit in (
        ("tight", "MaxSubmitJobs=2"),
        ("narrow", "MaxTRESPerJob=cpu=1"),
        ("grp", "GrpTRES=cpu=2"),
    ):
        cluster.run(*add, "account", account, "Description=limited")
        cluster.run(*add, "user", TEST_USER, f"Account={account}")
        cluster.run("sacctmgr", "-i", "modify", "account", account, "set", limit)
    for qos, limit in (("tight", "MaxSubmitJobsPerUser=2"), ("one", "MaxJobsPerUser=1")):
        cluster.run(*add, "qos", qos)
        cluster.run("sacctmgr", "-i", "modify", "qos", qos, "set", limit)
    cluster.run("sacctmgr", "-i", "modify", "user", TEST_USER, "set", "qos+=tight,one")
    cluster.run("sacctmgr", "-i", "modify", "user", TEST_USER, "set", f"DefaultAccount={ACCOUNT}")
    cluster.run(
        "scontrol",
        "create",
        "reservation",
        "ReservationName=later",
        "StartTime=now+2hours",
        "Duration=60",
        "Nodes=node1",
        f"Users={TEST_USER}",
    )


def main() -> None:
    """Record everything."""
    with SlurmCluster(
        nodes=2,
        cpus=4,
        memory_mb=8192,
        options={
            "AccountingStorageEnforce": "associations,limits,qos",
            "PreemptType": "preempt/partition_prio",
            "PreemptMode": "CANCEL",
            "Licenses": "tool:2",
        },
        extra_lines=(
            "PartitionName=low Nodes=node[1-2] PriorityTier=1 PreemptMode=CANCEL",
            "PartitionName=high Nodes=node[1-2] PriorityTier=10 PreemptMode=OFF",
            "PartitionName=side Nodes=node2",
            "PartitionName=one Nodes=node[1-2] MaxNodes=1",
            "PartitionName=off Nodes=node[1-2] State=DOWN",
            "PartitionName=asleep Nodes=node[1-2] State=INACTIVE",
        ),
    ) as cluster:
        version = cluster.run("sbatch", "--version").stdout.split()[-1]
        release = ".".join(version.split(".")[:2])
        directory = HERE / release
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        rec = Recorder(directory)
        rec.cluster = cluster
        add_limits(cluster)
        record_submissions(rec)
        cancel_all(cluster)
        record_pending(rec)
        record_limits(rec)
        record_ends(rec)
        record_errors(rec)
        record_place(rec)
    with SlurmCluster(accounting=False, nodes=1, min_job_age=2) as cluster:
        rec.cluster = cluster
        record_without_accounting(rec)
    rec.write_index(version)


if __name__ == "__main__":
    main()
