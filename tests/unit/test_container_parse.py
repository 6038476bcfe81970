from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.states import ExitReason
from snakemake_executor_plugin_pipen_container import parse

ROOT = Path(__file__).parent.parent / "recorded" / "container"
SAID = {path.stem: json.loads(path.read_text()) for path in ROOT.glob("*.json")}
both = pytest.mark.parametrize("runtime", sorted(SAID))


def error(runtime: str, case: str) -> SchedulerError:
    said = SAID[runtime][case]
    return parse.refusal(said["rc"], said["stderr"])


@both
def test_kind(runtime: str) -> None:
    assert parse.kind_of(SAID[runtime]["version"]["stdout"]) == runtime


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("apptainer version 1.3.6", "apptainer"),
        ("singularity version 3.8.7-1.el8", "apptainer"),
        ("singularity-ce version 4.1.0-jammy", "apptainer"),
        ("nerdctl version 1.7.6", "docker"),
        ("lxc 5.0", ""),
        ("", ""),
    ],
)
def test_kinds_that_are_not_here(version: str, kind: str) -> None:
    assert parse.kind_of(version) == kind


@both
def test_states(runtime: str) -> None:
    states = parse.running(SAID[runtime]["ps"]["stdout"])
    assert states == {"c1": False, "c2": False, "c3": True, "c4": False}


@pytest.mark.parametrize(
    "status", ["Up 2 hours (Paused)", "Restarting (1) 5 seconds ago", "Stopping"]
)
def test_what_has_not_ended_runs(status: str) -> None:
    assert parse.running(f"x\t{status}\n") == {"x": True}


@both
def test_ends(runtime: str) -> None:
    said = SAID[runtime]["inspect"]
    assert parse.only_unknown(said["stderr"])
    ends = parse.ends(said["stdout"], "pipen.root=mine")
    assert set(ends) == {"c3", "c4"}, "c2 has no such label: it is not this project's"
    assert ends["c4"] == parse.Ended(9, False, "")


@both
@pytest.mark.parametrize(
    ("case", "reason", "words"),
    [
        ("unknown-image", ExitReason.IMAGE_FAILURE, "localhost/no-such:1"),
        ("no-program", ExitReason.LAUNCH_FAILURE, "/bin/no-shell"),
        ("not-executable", ExitReason.LAUNCH_FAILURE, "permission denied"),
        ("no-source", ExitReason.LAUNCH_FAILURE, "/no/such"),
        ("bad-option", ExitReason.LAUNCH_FAILURE, "unknown flag: --no-such-flag"),
    ],
)
def test_refusals(runtime: str, case: str, reason: ExitReason, words: str) -> None:
    found = error(runtime, case)
    assert not isinstance(found, TransientError)
    assert found.reason is reason
    assert words in str(found)
    assert "See '" not in str(found)
    assert not str(found).startswith(("Error", "docker:"))


@both
def test_name_is_taken(runtime: str) -> None:
    assert parse.name_is_taken(SAID[runtime]["taken-name"]["stderr"])
    assert not parse.name_is_taken(SAID[runtime]["no-source"]["stderr"])


@both
def test_only_unknown(runtime: str) -> None:
    assert parse.only_unknown(SAID[runtime]["stop-unknown"]["stderr"])
    assert not parse.only_unknown(SAID[runtime]["no-source"]["stderr"])


@both
def test_pulls(runtime: str) -> None:
    passing = parse.pull_refusal(SAID[runtime]["pull-unreachable"]["stderr"])
    assert isinstance(passing, TransientError)
    lasting = parse.pull_refusal(SAID[runtime]["pull-unknown"]["stderr"])
    assert not isinstance(lasting, TransientError)
    assert lasting.reason is ExitReason.IMAGE_FAILURE
    assert "manifest unknown" in str(lasting)


@pytest.mark.parametrize(
    "text",
    [
        "docker: Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?.",
        "Error response from daemon: received unexpected HTTP status: 503 Service Unavailable",
        "toomanyrequests: You have reached your pull rate limit.",
        "net/http: TLS handshake timeout",
    ],
)
def test_what_passes(text: str) -> None:
    assert isinstance(parse.refusal(125, text), TransientError)
    assert isinstance(parse.pull_refusal(text), TransientError)


def test_facts() -> None:
    facts = parse.docker_facts(SAID["docker"]["info"]["stdout"])
    assert facts == parse.Facts(False, 2, frozenset({"cpus", "memory"}))
    assert parse.podman_facts(SAID["podman"]["info"]["stdout"]) == facts
    rootless = {"host": {"security": {"rootless": True}, "cpus": 4, "cgroupControllers": []}}
    assert parse.podman_facts(json.dumps(rootless)) == parse.Facts(True, 4, frozenset())
    assert parse.docker_facts('{"SecurityOptions": ["name=rootless"], "NCPU": 1}').rootless
    with pytest.raises(TransientError, match="not running"):
        parse.docker_facts('{"ServerErrors": ["the daemon is not running"]}')
    with pytest.raises(SchedulerError, match="cannot be read"):
        parse.docker_facts("nonsense")
