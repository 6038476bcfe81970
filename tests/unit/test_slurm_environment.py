"""What is asked of Slurm, and of whose jobs, whatever a user's environment and the queue hold."""

from __future__ import annotations

import pytest

from pipen_executors.states import Presence
from snakemake_executor_plugin_pipen_slurm import parse
from snakemake_executor_plugin_pipen_slurm.commands import (
    clean_environment,
    submission_environment,
    usual_clusters,
)
from snakemake_executor_plugin_pipen_slurm.ends import Facts, Standing, from_queue

USERS = {
    "PATH": "p",
    "SLURM_CONF": "c",
    "SLURM_JWT": "t",
    "SBATCH_ACCOUNT": "lab",
    "SBATCH_PARTITION": "long",
    "SBATCH_ARRAY_INX": "1-9",
    "SBATCH_WAIT": "1",
    "SBATCH_CPUS_PER_GPU": "2",
    "SQUEUE_FORMAT": "%T",
    "SQUEUE_STATES": "PD",
    "SACCT_FORMAT": "User",
    "SCANCEL_INTERACTIVE": "1",
    "SLURM_TIME_FORMAT": "relative",
    "SLURM_CLUSTERS": "big,small",
    "SLURM_HINT": "nomultithread",
}


def test_the_users_variables_change_nothing_that_is_asked() -> None:
    assert clean_environment(USERS) == {
        "PATH": "p",
        "SLURM_CONF": "c",
        "SLURM_JWT": "t",
        "LC_ALL": "C",
        "SLURM_TIME_FORMAT": "%s",
    }
    assert usual_clusters(USERS) == "big,small"
    assert usual_clusters({**USERS, "SBATCH_CLUSTERS": "fat"}) == "fat"


def test_what_users_set_for_their_jobs_goes_on_meaning_it() -> None:
    env = submission_environment(USERS, {"cpus-per-task": 1})
    assert {"SBATCH_ACCOUNT", "SBATCH_PARTITION", "SLURM_HINT", "SLURM_CONF"} <= env.keys()
    assert not {"SBATCH_ARRAY_INX", "SBATCH_WAIT", "SBATCH_CPUS_PER_GPU", "SLURM_CLUSTERS"} & set(
        env
    )
    assert "SBATCH_CPUS_PER_GPU" in submission_environment(USERS, {})


def test_the_surrounding_job_is_nothing_to_a_new_one() -> None:
    outer = {
        "SLURM_JOB_ID": "1",
        "SLURM_MEM_PER_CPU": "100",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_NTASKS_PER_GPU": "2",
        "SBATCH_MEM_BIND": "local",
    }
    env = submission_environment({**USERS, **outer}, {})
    assert not outer.keys() & env.keys()
    assert {"SBATCH_ACCOUNT", "SLURM_CONF", "SLURM_JWT"} <= env.keys()
    assert "SLURM_ARRAY_TASK_ID" not in submission_environment({"SLURM_ARRAY_TASK_ID": "3"}, {})


# -- states and ids ------------------------------------------------------------------------


def test_a_state_that_is_not_known_is_taken_for_running() -> None:
    (entry,) = parse.queue("7|TELEPORTING|n1|None|name|\n").values()
    assert entry.presence is Presence.RUNNING
    assert not entry.is_known
    assert from_queue(Facts(entry, None, None, True)) is Standing.UNSETTLED
    assert from_queue(Facts(entry, None, 143, True)) is None, "the wrapper's word counts"
    for state in ("RUNNING", "PENDING", "COMPLETED", "CANCELLED", "POWER_UP_NODE"):
        (entry,) = parse.queue(f"7|{state}||None|name|\n").values()
        assert entry.is_known is (state != "POWER_UP_NODE")


@pytest.mark.parametrize(
    ("jid", "name", "comment", "ours"),
    [
        ("7", "slurm-a", "jobid 3 (pipen 0a1b2c3d.t0ken.1)", True),
        ("7", "anything", "my words | here (pipen 0a1b2c3d.t0ken.1)", True),
        ("7", "slurm-a", "jobid 3 (pipen 0a1b2c3d.other.1)", False),
        ("7_0", "slurm-a", "jobid 3,4 (pipen 0a1b2c3d.first.2)", True),
        ("7_0", "slurm-a", "jobid 3 (pipen 0a1b2c3d.t0ken.1)", False),
        ("7", "slurm-a", "what the site writes", True),
        ("7", "bash", "", False),
    ],
)
def test_a_job_of_others_with_the_same_id(jid: str, name: str, comment: str, ours: bool) -> None:
    (entry,) = parse.queue(f"{jid}|RUNNING|n1|None|{name}|{comment}\n").values()
    assert entry.is_of("t0ken", lambda: "slurm-a") is ours


def test_a_record_of_others_with_the_same_id() -> None:
    line = "7|FAILED|1:0|n1|1700000100|1700000000|"
    (ended,) = parse.accounting(line).values()
    assert ended.is_of("t0ken", 1_699_999_000.0)
    assert not ended.is_of("t0ken", 1_700_000_001.0), "it was submitted before"
    (marked,) = parse.accounting(line + "jobid 1 (pipen 0a1b.other.1)").values()
    assert not marked.is_of("t0ken", 0.0)
