"""What is asked of Grid Engine, whatever a user's environment and files hold."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipen_executors.exceptions import UserError
from snakemake_executor_plugin_pipen_sge import accounting, commands
from snakemake_executor_plugin_pipen_sge.commands import (
    Commands,
    clean_environment,
    submission_environment,
)

USERS = {
    "PATH": "p",
    "SGE_ROOT": "/sge",
    "SGE_CELL": "c",
    "SGE_QMASTER_PORT": "1",
    "SGE_LONG_QNAMES": "9",
    "SGE_SINGLE_LINE": "1",
    "SGE_DEBUG_LEVEL": "2 0 0 0 0 0 0 0",
    "LANG": "de_DE.UTF-8",
    "TZ": "Europe/Berlin",
}
SURROUNDING = {
    "JOB_ID": "7",
    "SGE_TASK_ID": "3",
    "SGE_O_WORKDIR": "/x",
    "PE_HOSTFILE": "/spool/pe_hostfile",
    "NSLOTS": "16",
    "QUEUE": "long.q",
    "RESTARTED": "1",
}
REACHED = {"PATH", "SGE_ROOT", "SGE_CELL", "SGE_QMASTER_PORT"}


def test_the_users_variables_change_nothing_that_is_asked() -> None:
    env = clean_environment({**USERS, **SURROUNDING})
    assert env.keys() >= REACHED
    assert not {"SGE_LONG_QNAMES", "SGE_SINGLE_LINE", "SGE_DEBUG_LEVEL", "SGE_TASK_ID"} & set(env)
    assert (env["LC_ALL"], env["TZ"]) == ("C", "UTC")


def test_the_surrounding_job_is_nothing_to_a_new_one() -> None:
    """With -V it has the environment of qsub."""
    env = submission_environment({**USERS, **SURROUNDING})
    assert REACHED | {"LANG", "TZ"} <= env.keys()
    assert env["TZ"] == "Europe/Berlin", "the job's business"
    assert not SURROUNDING.keys() & env.keys()
    assert submission_environment({"QUEUE": "mine", "PE": "mine"}) == {
        "QUEUE": "mine",
        "PE": "mine",
    }


def test_times_of_accounting_are_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the hour that comes twice, local times say nothing."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        assert accounting.parse_time("Sun Oct 25 00:30:00 2026") == 1792888200.0
        assert accounting.parse_time("10/25/2026 00:30:00.123") == 1792888200.0
    finally:
        monkeypatch.undo()
        time.tzset()


class TestFilesOfQstat:
    """qstat reads ~/.sge_qstat and the cell's, and no option makes it leave them unread."""

    def given(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Commands:
        file = tmp_path / ".sge_qstat"
        file.write_text(text)
        monkeypatch.setattr(commands, "default_files", lambda name: ["/no/such", str(file)])
        return Commands("qsub", "qstat", "qdel", "qacct", "qconf")

    @pytest.mark.parametrize(
        ("text", "all_queues"),
        [("-u * -s r", ()), ("# -l x\n-ext", ()), ("-q long.q", ("-q", "*")), ("-u '", ())],
    )
    def test_harmless(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        text: str,
        all_queues: tuple[str, ...],
    ) -> None:
        sge = self.given(tmp_path, monkeypatch, text)
        sge.mind_default_requests()
        assert sge._all_queues == all_queues

    @pytest.mark.parametrize("option", ["-l arch=x", "-pe mpi", "-j 1", "-qs u"])
    def test_what_hides_jobs_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
    ) -> None:
        sge = self.given(tmp_path, monkeypatch, f"-u * {option}")
        with pytest.raises(UserError, match=rf"\.sge_qstat has {option.split()[0]}, with which"):
            sge.mind_default_requests()
