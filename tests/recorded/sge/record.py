"""Record what a real Grid Engine answers, for the tests of the parsers.

Run it again, as root, for another release of Grid Engine (about two minutes)::

    python -m tests.recorded.sge.record

It brings cells up by `tests.services.sge`, gets jobs into every state that one machine can
produce, and writes below a directory named after the release: ``<name>.out`` and ``<name>.err``
(standard output and error, byte for byte but for where the cell lay), and an ``index.json``
with each one's exact command and exit status.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time
from pathlib import Path

from tests.services.common import wait_until
from tests.services.sge import SgeCell
from tests.services.sge_config import PACKAGE
from tests.services.users import TEST_USER

HERE = Path(__file__).resolve().parent
QSUB = ("qsub", "-terse", "-S", "/bin/bash", "-C", "", "-j", "y")
QSTAT = ("qstat", "-xml", "-u", TEST_USER)
NOWHERE = "/nonexistent"
PLAIN = {"PATH": f"{PACKAGE}:/usr/bin:/bin"}
"""Jobs in the queue show the PATH of their submission."""


class Recorder:
    """Runs client commands and keeps what they answer."""

    def __init__(self, directory: Path, cell: SgeCell) -> None:
        self.directory = directory
        self.cell = cell
        self.index: dict[str, dict[str, object]] = {}

    def record(self, name: str, *argv: str, note: str = "", stdin: str = "") -> str:
        """Run a command, keep its answer as ``name``, and return its standard output."""
        start = time.monotonic()
        result = self.cell.run(
            *argv, user=TEST_USER, check=False, stdin=stdin, timeout=180, env=PLAIN
        )
        self.index[name] = {
            "command": self._neutral(shlex.join(argv)),
            "status": result.returncode,
            "seconds": round(time.monotonic() - start, 1),
            **({"note": note} if note else {}),
        }
        (self.directory / f"{name}.out").write_text(self._neutral(result.stdout))
        if result.stderr:
            (self.directory / f"{name}.err").write_text(self._neutral(result.stderr))
        return result.stdout

    def _neutral(self, text: str) -> str:
        return text.replace(str(self.cell.base), "/lab")

    def submit(self, *options: str, script: str = "sleep 600") -> str:
        """Submit a job and return its id."""
        words = (*QSUB, "-o", "/dev/null", *options)
        said = self.cell.run(*words, user=TEST_USER, stdin=f"{script}\n", env=PLAIN).stdout
        return said.strip().partition(".")[0]

    def qsub(self, name: str, *options: str, note: str = "") -> str:
        """Record a submission; return what it answered."""
        words = (*QSUB, "-o", "/dev/null", *options)
        return self.record(f"qsub-{name}", *words, stdin="sleep 600\n", note=note).strip()

    def explain(self, name: str, jobid: str) -> None:
        """Record everything that is known of one job in the queue."""
        self.record(f"qstat-j-{name}", "qstat", "-j", jobid)
        self.record(f"qstat-xml-j-{name}", "qstat", "-xml", "-j", jobid)

    def queue(self, name: str, note: str = "") -> None:
        """Record the queue."""
        self.record(f"qstat-{name}", *QSTAT, note=note)

    def accounting(self, name: str, jobid: str) -> None:
        """Record what accounting says of an ended job."""
        self.cell.wait_accounted(jobid)
        self.record(f"qacct-{name}", "qacct", "-j", jobid)

    def clear(self) -> None:
        """Delete every job, and wait until the queue is empty."""
        self.cell.run("qdel", "-u", TEST_USER, check=False)
        self.cell.wait_idle()


def record_submissions(rec: Recorder) -> None:
    """Record what qsub says."""
    rec.qsub("single")
    rec.qsub("array", "-t", "1-4")
    for name, *options in (
        ("unknown-queue", "-q", "nosuch.q"),
        ("unknown-resource", "-l", "nosuch=1"),
        ("unknown-environment", "-pe", "nosuch", "2"),
        ("unknown-project", "-P", "nosuch"),
        ("unknown-host", "-l", "hostname=nosuch"),
        ("invalid-value", "-l", "h_rt=abc"),
        ("invalid-option", "-nosuch"),
        ("invalid-name", "-N", "a/b"),
        ("name-with-blank", "-N", "a b"),
        ("name-with-digit", "-N", "1a"),
        ("array-over-max", "-t", "1-90000"),
        ("never-slots", "-w", "e", "-pe", "smp", "99"),
        ("never-memory", "-w", "e", "-l", "h_vmem=900G"),
        ("load-value", "-w", "e", "-l", "mem_free=1K"),
        ("verified", "-w", "v", "-l", "licence=2"),
        ("verify-slots", "-w", "v", "-pe", "smp", "99"),
        ("verify-too-many", "-w", "v", "-l", "licence=3"),
        ("verify-unknown", "-w", "v", "-l", "gpu=1"),
        ("verify-unknown-now", "-w", "p", "-l", "gpu=1"),
        ("verify-load-value", "-w", "v", "-l", "mem_free=1K"),
        ("verify-load-value-now", "-w", "p", "-l", "mem_free=1K"),
    ):
        rec.qsub(name, *options)
    rec.record("qconf-spl", "qconf", "-spl")
    for name in ("smp", "make"):
        rec.record(f"qconf-sp-{name}", "qconf", "-sp", name)
    rec.record("qconf-sconf", "qconf", "-sconf")
    rec.clear()


def record_states(rec: Recorder) -> None:
    """Record jobs in every state of the queue, and their deletion."""
    cell = rec.cell
    running = rec.submit("-N", "running")
    array = rec.submit("-N", "array", "-t", "1-20")
    hold = rec.submit("-N", "held", "-h")
    cell.wait_state(running, "r")
    cell.wait_state(f"{array}.9", "r")
    never = rec.submit("-N", "never", "-l", "mem_free=900G")
    rec.queue("mixed")
    rec.explain("running", running)
    rec.explain("held", hold)
    cell.run("qmod", "-sj", running, user=TEST_USER)
    cell.wait_state(running, "s")
    rec.queue("suspended")
    # The scheduler says why a job waits once it has looked at it.
    wait_until(
        lambda: "scheduling info" in cell.run("qstat", "-j", never).stdout.replace("(Coll", ""),
        "the scheduler's reasons",
    )
    rec.explain("never", never)
    rec.record("qdel-task-list", "qdel", f"{array}.1-2", note="two tasks of an array")
    rec.record("qdel-tasks", "qdel", f"{array}", "-t", "3,5-6", note="qdel -t takes no list")
    rec.record("qdel-two", "qdel", f"{running},{hold}")
    rec.record("qdel-unknown", "qdel", "99999", note="unknown to qmaster")
    rec.record("qdel-known-and-unknown", "qdel", "99999", never)
    rec.record("qdel-array", "qdel", array)
    rec.clear()
    rec.queue("empty")
    rec.record("qstat-j-unknown", "qstat", "-j", "99999")
    rec.record("qstat-xml-j-unknown", "qstat", "-xml", "-j", "99999")


def record_errors(rec: Recorder) -> None:
    """Record jobs that Grid Engine sets into the error state."""
    cell = rec.cell
    directory = rec.submit("-N", "badwd", "-wd", NOWHERE)
    output = rec.submit("-N", "badoutput", "-o", f"{NOWHERE}/x")
    hundred = rec.submit("-N", "hundred", script="exit 100")
    tasks = rec.submit("-N", "badtasks", "-t", "1-3", "-wd", NOWHERE)
    for jobid in (directory, output, hundred, f"{tasks}.1", f"{tasks}.3"):
        cell.wait_state(jobid, "Eqw")
    rec.queue("errors")
    rec.explain("badwd", directory)
    rec.explain("badtasks", tasks)
    rec.record("qstat-j-two-errors", "qstat", "-j", f"{directory},{output}")
    rec.record("qstat-xml-j-two-errors", "qstat", "-xml", "-j", f"{directory},{output}")
    rec.accounting("badwd", directory)
    rec.accounting("hundred", hundred)
    rec.clear()


def record_ends(rec: Recorder) -> None:
    """Record what accounting says of jobs that end in every way."""
    cell = rec.cell
    allocate = f"exec {shutil.which('perl')} -e '$x = \"x\" x 900000000; sleep 600'"
    ends = {
        "ok": rec.submit("-N", "ok", script="exit 0"),
        "exit-3": rec.submit("-N", "three", script="exit 3"),
        "signal": rec.submit("-N", "signal", script="kill -SEGV $$"),
        "kill": rec.submit("-N", "kill", script="kill -KILL $$"),
        "h_rt": rec.submit("-N", "h_rt", "-l", "h_rt=2"),
        "s_rt": rec.submit("-N", "s_rt", "-l", "s_rt=2"),
        "h_vmem": rec.submit("-N", "h_vmem", "-l", "h_vmem=200M", script=allocate),
        "array": rec.submit("-N", "array", "-t", "1-3", script="exit $SGE_TASK_ID"),
    }
    deleted = rec.submit("-N", "deleted")
    cell.wait_state(deleted, "r")
    rec.record("qdel-running", "qdel", deleted)
    rec.record("qdel-again", "qdel", deleted)
    rec.queue("deleting")
    ends["deleted"] = deleted
    for jobid in ends.values():
        cell.wait_state(jobid, "", timeout=90)
    for name, jobid in ends.items():
        rec.accounting(name, jobid)
    again = rec.submit("-N", "again", script="exit 99")
    cell.wait_accounted(again)
    rec.queue("requeued")
    rec.clear()
    rec.accounting("requeued", again)
    rec.record("qacct-unknown", "qacct", "-j", "99999")
    begin = time.strftime("%Y%m%d%H%M", time.localtime(time.time() - 3600))
    rec.record("qacct-all", "qacct", "-o", TEST_USER, "-b", begin, "-j")
    waiting = rec.submit("-h")
    rec.record("qdel-pending", "qdel", waiting)
    rec.record("qacct-deleted-pending", "qacct", "-j", waiting)


def record_place(rec: Recorder) -> None:
    """Record what says which queues there are, and which release it is."""
    queues = rec.record("qconf-sql", "qconf", "-sql").split()
    rec.record("qconf-sq", "qconf", "-sq", ",".join(queues))
    rec.record("qstat-g-c", "qstat", "-g", "c")
    for name in ("qsub", "qstat", "qdel", "qconf", "qacct"):
        rec.record(f"{name}-help", name, "-help")


def record_faults(rec: Recorder) -> None:
    """Record what absent and silent daemons lead to."""
    cell = rec.cell
    lost = rec.submit("-N", "lost")
    cell.wait_state(lost, "r")
    cell.stop_execd()
    cell.wait_queue("u")
    rec.queue("execd-lost")
    rec.qsub("verify-now-execd-lost", "-w", "p", "-l", "mem_free=1K")
    rec.record("qstat-unknown-hosts", "qstat", "-f", "-xml", "-qs", "u", "-u", TEST_USER)
    rec.record("qdel-execd-lost", "qdel", lost)
    rec.record("qdel-force-execd-lost", "qdel", "-f", lost)
    rec.queue("execd-lost-deleted")
    cell.stop_qmaster()
    rec.qsub("qmaster-down")
    rec.queue("qmaster-down")
    rec.record("qstat-j-qmaster-down", "qstat", "-j", lost)
    rec.record("qdel-qmaster-down", "qdel", lost)
    rec.record("qconf-qmaster-down", "qconf", "-spl")
    rec.record("qacct-qmaster-down", "qacct", "-j", "1", note="reads the file itself")
    cell.start_qmaster()
    cell.accounting_file.rename(cell.accounting_file.with_name("elsewhere"))
    rec.record("qacct-no-file", "qacct", "-j", "1")


def record_limits(rec: Recorder) -> None:
    """Record what a limit on a user's jobs leads to."""
    rec.submit("-h")
    rec.submit("-h")
    rec.qsub("limit-user", note="max_u_jobs is 2")
    rec.qsub("array-over-small-max", "-t", "1-11", note="max_aj_tasks is 10")


def main() -> None:
    """Record everything."""
    with SgeCell(max_unheard=4, consumables={"licence": 2, "gpu": 0}) as cell:
        version = re.search(r"[\d.]+", cell.run("qstat", "-help").stdout)
        assert version is not None
        directory = HERE / version[0].rstrip(".")
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        rec = Recorder(directory, cell)
        record_submissions(rec)
        record_states(rec)
        record_errors(rec)
        record_ends(rec)
        record_place(rec)
        record_faults(rec)
    with SgeCell(max_u_jobs=2, max_aj_tasks=10) as cell:
        rec.cell = cell
        record_limits(rec)
    text = json.dumps(rec.index, indent=1, sort_keys=True)
    (directory / "index.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
