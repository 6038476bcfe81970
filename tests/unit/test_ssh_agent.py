"""The agent of pipen-ssh, in a bash of this machine: what it answers, and to which names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from snakemake_executor_plugin_pipen_ssh import answers
from snakemake_executor_plugin_pipen_ssh.agent import frame, script

from ..conformance.harness import wait_for

NAMES = ["-", "a b", "new\nline", "$(touch pwned)", "'q' \"d\"", "-x", "*", "é", "\udcff"]


class Agent:
    """An agent, asked by hand."""

    def __init__(self, tree: Path, token: str = "run1") -> None:
        self.process = subprocess.Popen(
            ["/bin/bash", "-p"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
        )
        self.count = 0
        self.events: list[str] = []
        assert self.process.stdin is not None
        self.process.stdin.write(script("tree.sh") + script("agent.sh"))
        self.process.stdin.flush()
        while not self.line().startswith("pipen-agent "):
            pass
        self.hello = self.ask("hello", "bell", tree, "events", "", token)

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the agent has ended"
        return os.fsdecode(line).rstrip("\n")

    def ask(self, operation: str, *fields: object) -> str:
        """Return verdict and text of the answer."""
        self.count += 1
        assert self.process.stdin is not None
        self.process.stdin.write(frame(operation, self.count, *fields))
        self.process.stdin.flush()
        while True:
            kind, _, text = self.line().partition(" ")
            if kind == "!":
                self.events.append(text)
            elif kind == "=":
                number, _, answer = text.partition(" ")
                assert number == str(self.count)
                return answer

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(10) == 0

    def next_event(self) -> str:
        while not self.events:
            kind, _, text = self.line().partition(" ")
            if kind == "!":
                self.events.append(text)
        return self.events.pop(0)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return tmp_path / "it's a tree"


@pytest.fixture
def agent(tree: Path) -> Iterator[Agent]:
    agent = Agent(tree)
    yield agent
    agent.end()


def test_hello(agent: Agent, tree: Path) -> None:
    verdict, _, text = agent.hello.partition(" ")
    assert verdict == "ok"
    hello = answers.hello(text)
    assert hello.cores >= 1
    assert hello.mem_mb > 100
    assert hello.oom_kills >= 0
    assert abs(hello.time - time.time_ns()) < 60 * 10**9
    assert hello.tree == str(tree)
    assert hello.stock == (tree / ".pipen-tree.run1").read_text().strip()
    assert (tree / "events").stat().st_mode & 0o777 == 0o700


def test_name_of_a_tree_is_of_one_run(agent: Agent, tree: Path, tmp_path: Path) -> None:
    """Machines with one tree agree; one that is cloned between runs does not get the other's."""

    def stock(tree: Path, token: str) -> str:
        other = Agent(tree, token)
        other.end()
        return answers.hello(other.hello.removeprefix("ok ")).stock

    first = stock(tree, "run1")
    assert answers.hello(agent.hello.removeprefix("ok ")).stock == first
    (tree / ".pipen-tree").write_text("of an earlier release\n")
    for name in (".pipen-tree", ".pipen-tree.run1"):
        os.utime(tree / name, (0, 0))
    clone = tmp_path / "clone"
    shutil.copytree(tree, clone, ignore=shutil.ignore_patterns("events"))
    clone.chmod(0o700)
    assert len({first, stock(tree, "run2"), stock(clone, "run2")}) == 3
    assert [path.name for path in tree.glob(".pipen-tree*")] == [".pipen-tree.run2"]


@pytest.mark.skipif(shutil.which("setfacl") is None, reason="there is no setfacl")
def test_parent_with_a_default_acl(tmp_path: Path) -> None:
    if subprocess.run(["setfacl", "-d", "-m", "u::rwx,g::rwx,o::rx", tmp_path]).returncode:
        pytest.skip("no ACLs here")
    agent = Agent(tmp_path / "tree")
    agent.end()
    assert agent.hello.startswith("ok ")


def test_digest_of_a_directory_whatever_its_name(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whatever the login exports for cd and for bash."""
    tree.mkdir(mode=0o700)
    for name in ("res", "-", "-P"):
        (tree / name).mkdir()
        (tree / name / "file").touch()
        os.utime(tree / name / "file", (1, 1))
    monkeypatch.setenv("CDPATH", f"{tree}:/")
    monkeypatch.setenv("OLDPWD", "/")
    agent = Agent(tree)
    _, _, text = agent.ask("stat", 4, "res", "-", "-P", tree / "res").partition(" ")
    agent.end()
    assert re.fullmatch(r"(d:[0-9a-f]{64})( \1){3}", text)


def test_tree_that_cannot_be_made() -> None:
    agent = Agent(Path("/proc/no/tree"))
    assert agent.hello.startswith("error mkdir: ")
    agent.end()


def test_job_from_start_to_end(agent: Agent, tree: Path) -> None:
    """Arguments of the wrapper, its session, and a ring at its end."""
    wrapper = tree / "wrapper 'x'"
    wrapper.write_text(
        'echo "$1" "$(ps -o sid= -p $$)" > said; until [ -e go ]; do sleep 0.02; done\n'
        ': > events/k.t.end.3; echo k.t.end.3 1<> "$2"; exit 3\n'
    )
    verdict, pid, _ = agent.ask("start", "big1", "wrapper 'x'", "log").split()
    assert verdict == "ok"
    assert agent.ask("query", 2, pid, "wrapper 'x'", "1", "wrapper 'x'").split()[2:] == [
        "running",
        "gone",
    ]
    said = tree / "said"
    assert wait_for(lambda: said.exists() and said.read_text().split()) == ["big1", pid]
    (tree / "go").touch()
    assert agent.next_event() == "k.t.end.3"
    wait_for(lambda: agent.ask("query", 1, pid, "wrapper 'x'").split()[2:] == ["3"])
    agent.ask("forget", 1, "k.t.end.3")
    assert not (tree / "events" / "k.t.end.3").exists()


def test_events_that_nobody_heard_are_listed(agent: Agent, tree: Path) -> None:
    (tree / "events" / "k.t.end.0").touch()
    assert agent.next_event() == "k.t.end.0"


def test_start_that_is_refused(agent: Agent) -> None:
    answer = agent.ask("start", "big1", "w", "no/such/directory/log")
    assert answer.startswith("error ")
    assert "No such file or directory" in answer


def test_kill_reaches_the_whole_session(agent: Agent, tree: Path) -> None:
    (tree / "w").write_text("trap '' TERM; (trap '' TERM; echo > up; sleep 1000) & wait\n")
    _, pid, _ = agent.ask("start", "s", "w", "log").split()
    wait_for((tree / "up").exists)
    assert agent.ask("kill", 1, 1, pid, "w").split() == ["ok"]
    assert agent.ask("query", 1, pid, "w").split()[2:] == ["137"]


def test_kill_leaves_another_process_with_the_same_id_alone(agent: Agent) -> None:
    stranger = subprocess.Popen(["sleep", "100"], start_new_session=True)
    assert agent.ask("kill", 0, 1, stranger.pid, "w").split() == ["ok"]
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_names_are_data(agent: Agent, tree: Path) -> None:
    for name in NAMES:
        (tree / name).write_text(name, errors="surrogateescape")
    os.utime(tree / "a b", ns=(1, 1_600_000_000_123_456_789))
    _, _, text = agent.ask("stat", len(NAMES) + 1, *NAMES, "missing").partition(" ")
    *there, missing = answers.versions(text, len(NAMES) + 1)
    assert [one[0] for one in there if isinstance(one, tuple)] == [
        len(os.fsencode(n)) for n in NAMES
    ]
    assert there[1] == (3, 1_600_000_000_123_456_789)
    assert missing is None


def test_claim(agent: Agent, tree: Path) -> None:
    assert agent.ask("claim", "job/info") == "ok yes", "where there is no job, none will start"
    (tree / "job").mkdir()
    assert agent.ask("claim", "job/info") == "ok yes"
    assert agent.ask("claim", "job/info") == "ok no"
