"""The script around a command whose files are copied, and what it leaves: run by bash."""

from __future__ import annotations

import os
import shlex
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from pipen_executors import staging
from pipen_executors.staging import Staging
from tests.conformance.harness import wait_for

NAME = "pipen-0123"


class Node:
    """A job on a node: its directory, its prefix, and storage."""

    def __init__(self, home: Path) -> None:
        self.directory = home / "it's job"
        self.prefix = home / "local $disk"
        self.storage = home / "storage"
        self.directory.mkdir()
        self.storage.mkdir()
        self.staging = Staging(NAME, str(self.prefix))
        self.copies = self.prefix / NAME / "fs"

    def place(self, name: str) -> tuple[str, str]:
        """Return the paths of a file in storage and of its copy, and let the script know it."""
        source, copy = str(self.storage / name), str(self.copies / name)
        self.staging.paths[name] = copy
        return source, copy

    def fetched(self, name: str, text: str = "text") -> str:
        """Return the copy of an input."""
        source, copy = self.place(name)
        Path(source).parent.mkdir(exist_ok=True)
        Path(source).write_text(text)
        self.staging.fetched[source] = copy
        return copy

    def made(self, name: str) -> str:
        """Return the copy of an output."""
        target, copy = self.place(name)
        self.staging.outputs[copy] = target
        return copy

    def logged(self, name: str) -> str:
        """Return the copy of a log."""
        target, copy = self.place(name)
        self.staging.logs[copy] = target
        return copy

    def _named(self) -> str:
        """Return shell variables for the copies: a, b, c … in the order of their naming."""
        pairs = zip("abcdef", self.staging.paths.values(), strict=False)
        return "".join(f"{name}={shlex.quote(copy)}; " for name, copy in pairs)

    def start(self, command: str, **options: int | str) -> subprocess.Popen[str]:
        """Start a command between its copies."""
        script = self.directory / staging.FILE
        cwd = str(self.storage)
        script.write_text(staging.script(self.staging, str(self.directory), cwd, **options))  # type: ignore[arg-type]
        return subprocess.Popen(
            ["/bin/bash", script, "/bin/sh", "-c", f"{self._named()}{command}"],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str, **options: int | str) -> tuple[int, str]:
        """Run a command between its copies; return its exit status and its messages."""
        process = self.start(command, **options)
        _, said = process.communicate(timeout=60)
        return process.returncode, said

    def tidy(self) -> None:
        """Do what the wrapper does when the command has ended."""
        code = staging.removal(self.staging, str(self.directory))
        subprocess.run(["/bin/bash", "-c", code], check=True)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A job on a node."""
    return Node(tmp_path)


def test_inputs_and_outputs(node: Node) -> None:
    """Copied there and back, with names that a shell would take apart; then nothing is left."""
    node.fetched("sub dir/it's $a.txt", "1\n")
    node.fetched("-b", "2\n")
    node.made("new/out put")
    assert node.run('cat "$a" "$b" > "$c"') == (0, "")
    assert (node.storage / "new/out put").read_text() == "1\n2\n"
    node.tidy()
    assert not (node.prefix / NAME).exists() and node.prefix.is_dir()


def test_a_failure_stores_the_log_alone(node: Node) -> None:
    """Exit status and messages are the command's."""
    node.made("out")
    node.logged("log")
    rc, said = node.run('echo half > "$a"; echo why > "$b"; echo said >&2; exit 7')
    assert (rc, said) == (7, "said\n")
    assert not (node.storage / "out").exists()
    assert (node.storage / "log").read_text() == "why\n"


def test_what_the_command_does_not_make(node: Node) -> None:
    """touch() outputs and logs are made; another output that is missing is left to the engine."""
    node.staging.touched.append(node.made("touched"))
    node.made("missing")
    node.logged("log")
    assert node.run("true") == (0, "")
    assert sorted(path.name for path in node.storage.iterdir()) == ["log", "touched"]


def test_directories_links_modes_and_times(node: Node) -> None:
    """Links are followed, modes come from the umask, times within directories are kept."""
    made, guarded = node.made("tree"), node.made("guarded")
    node.staging.directories.append(made)
    node.staging.protected.append(guarded)
    (node.storage / "tree").mkdir()
    (node.storage / "tree" / "old").touch()
    rc, said = node.run(
        'mkdir "$a"; cd "$a"; echo x > x; touch -d @1000000000 x; ln -s x link; '
        'mkdir shut; chmod 500 shut; echo g > "$b"'
    )
    assert (rc, said) == (0, "")
    names = {path.name for path in (node.storage / "tree").iterdir()}
    assert names == {"x", "link", "shut", ".snakemake_timestamp"}
    assert not (node.storage / "tree/link").is_symlink()
    assert (node.storage / "tree/x").stat().st_mtime == 1e9
    assert stat.S_IMODE((node.storage / "guarded").stat().st_mode) & 0o222 == 0
    node.tidy()
    assert not (node.prefix / NAME).exists()


def test_copies_that_are_kept(node: Node) -> None:
    """Copied once more only if storage has a newer one."""
    source = node.storage / "in"
    source.write_text("1")
    kept = node.prefix / "fs" / "in"
    node.staging.paths["in"] = str(kept)
    node.staging.kept[str(source)] = str(kept)
    assert node.run("true") == (0, "")
    kept.write_text("mine")
    os.utime(kept, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))
    assert node.run("true") == (0, "")
    assert kept.read_text() == "mine"
    source.write_text("2")
    os.utime(source, (2e9, 2e9))
    assert node.run("true") == (0, "")
    node.tidy()
    assert kept.read_text() == "2"


def test_a_prefix_of_the_node(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables are replaced as Snakemake replaces them; nothing else is."""
    monkeypatch.setenv("SCRATCH", str(node.prefix))
    link = node.directory / "local"
    target = "$SCRATCH/it's ${SCRATCHER}$(echo no)"
    node.staging = Staging(NAME, str(link), target)
    node.copies = link / NAME
    node.made("out")
    rc, said = node.run('readlink -f "$a" > "$a"')
    assert rc != 0 and "SCRATCHER: it is not set on this node" in said
    monkeypatch.setenv("SCRATCHER", "x y")
    assert node.run('readlink -f "$a" > "$a"') == (0, "")
    place = f"{node.prefix}/it's x y$(echo no)/{NAME}/out"
    assert (node.storage / "out").read_text() == f"{place}\n"
    node.tidy()
    assert not link.exists() and not Path(place).parent.exists()


def test_what_cannot_be_copied(node: Node) -> None:
    """Says which file, and the command does not run."""
    node.staging.fetched[str(node.storage / "not there")] = node.place("not there")[1]
    rc, said = node.run(f"touch {shlex.quote(str(node.storage))}/ran")
    assert rc == 1 and "not there" in said and "inputs could not be copied" in said
    assert not (node.storage / "ran").exists()


def test_no_room(node: Node) -> None:
    """With --wait-for-free-local-storage more than there is fails after that time."""
    source = Path(node.storage / "huge")
    with source.open("wb") as stream:
        os.truncate(stream.fileno(), 1 << 42)
    node.staging.fetched[str(source)] = node.place("huge")[1]
    rc, said = node.run("true", wait=1)
    assert rc == 1 and "no room" in said


@pytest.mark.parametrize("status", [0, 3])
def test_told_to_end(node: Node, status: int) -> None:
    """What a command that is told to end has made is not stored, whatever it says of itself."""
    node.made("out")
    log = node.logged("log")
    process = node.start(
        f'trap \'exit {status}\' TERM; echo half > "$a"; echo on > "$b"; '
        "while :; do sleep 0.1; done"
    )
    wait_for(lambda: os.path.exists(log) and Path(log).read_text(), "the command")
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == (status or 143)
    assert sorted(path.name for path in node.storage.iterdir()) == ["log"]


def test_warnings_reach_the_command(node: Node) -> None:
    """SIGUSR1 to all of the job does not end the script around the command."""
    made = node.made("out")
    process = node.start(
        'trap \'echo warned > "$a"; exit 0\' USR1; : > "$a.on"; while :; do sleep 0.1; done'
    )
    wait_for(lambda: os.path.exists(f"{made}.on"), "the command")
    os.killpg(process.pid, signal.SIGUSR1)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (node.storage / "out").read_text() == "warned\n"


def test_what_is_measured_is_the_command(node: Node) -> None:
    """The times in the job directory are those of the command, without the copies."""
    usage = node.directory / "job.usage"
    assert node.run("true", usage=str(usage)) == (0, "")
    assert [line.split()[0] for line in usage.read_text().splitlines()] == ["begin", "end"]
