from __future__ import annotations

from typing import Any

import pytest

from pipen_executors.job import Job
from pipen_executors.jobdir import JobDir
from pipen_executors.spec import Resources
from snakemake_executor_plugin_pipen_ssh.client import Access
from snakemake_executor_plugin_pipen_ssh.host import Host
from snakemake_executor_plugin_pipen_ssh.placement import Room
from snakemake_executor_plugin_pipen_ssh.servers import Server, chosen, parse_servers
from snakemake_executor_plugin_pipen_ssh.stock import Stocks

from .specs import job_spec


@pytest.mark.parametrize(
    ("word", "server"),
    [
        ("big1", Server("big1", "big1")),
        ("me@big1", Server("me@big1", "big1", user="me")),
        ("big1:2222", Server("big1:2222", "big1", port=2222)),
        ("me@[fe80::1]:22", Server("me@[fe80::1]:22", "fe80::1", port=22, user="me")),
        ("[fe80::1]", Server("[fe80::1]", "fe80::1")),
        (
            "a,host=10.0.0.1,user=you,port=3,slots=4,mem_mb=2G,workdir=~/x,tmpdir=/scratch,"
            "keyfile=~/.ssh/k,groups=fat gpu",
            Server(
                *("a", "10.0.0.1", 3, "you", "~/.ssh/k", 4, 2048, "~/x", "/scratch"),
                groups=("fat", "gpu"),
            ),
        ),
    ],
)
def test_server(word: str, server: Server) -> None:
    assert parse_servers([word]) == [server]


def test_servers_of_a_profile() -> None:
    table = {"a": {"slots": 2, "ctrl_persist": 600}, "b": {"host": "me@10.0.0.1:22"}}
    expected = [Server("a", "a", slots=2), Server("b", "10.0.0.1", 22, "me")]
    assert parse_servers(table) == expected
    assert parse_servers(["a,slots=2", {"name": "b", "host": "me@10.0.0.1:22"}]) == expected
    nothing = {"host": None, "user": None, "port": None, "groups": None, "tmpdir": None}
    assert parse_servers({"a": nothing}) == [Server("a", "a")]
    assert parse_servers("a b") == [Server("a", "a"), Server("b", "b")]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "one or more of"),
        (["a", "a"], "a is listed twice"),
        (["a b"], "'a b' is no host"),
        (["-oProxyCommand=x"], "is no host"),
        (["a:x"], "'a:x' is no host"),
        (["a,slots"], "has no '='"),
        (["a,slots=0"], "slots of a is '0': expected a whole number, 1 or more"),
        (["a,colour=red"], "unknown key 'colour'"),
        ({"a": 16}, r"a is 16: expected a table such as \{ slots = 16 \}"),
        ({"a": "slots=4"}, "a is 'slots=4': expected a table such as"),
        ({"a": None}, "a is None: expected a table such as"),
        ({"a": {"groups": 5}}, "groups of a is 5: expected names"),
        ({"a": {"groups": [5]}}, "expected names"),
        ({"a": {"user": ["x"]}}, r"user of a is \['x'\]: expected text"),
        ({5: {"slots": 0}}, "slots of 5 is 0"),
        (5, "5 names no servers"),
        (None, "None names no servers"),
        ([None], "None is no server"),
        (["a,workdir=x"], "expected a path that begins with / or ~/"),
    ],
)
def test_bad_servers(value: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_servers(value)


def test_chosen() -> None:
    servers = parse_servers(["a", "me@b:1,groups=fat", "c,groups=fat"])
    assert [s.name for s in chosen(servers, "b")] == ["me@b:1"]
    assert [s.name for s in chosen(servers, "fat")] == ["me@b:1", "c"]
    assert [s.name for s in chosen(servers, "a, c")] == ["a", "c"]
    with pytest.raises(ValueError, match="a, c, fat, me@b:1"):
        chosen(servers, "d")


# -- placement ---------------------------------------------------------------------------


class HostHere(Host):
    """One that needs no connection to be asked for its size."""

    is_here = True


def host(name: str, slots: int, mem_mb: int = 1000) -> Host:
    server = Server(name, name, slots=slots, mem_mb=mem_mb)
    nothing = lambda *_: None  # noqa: E731
    access = Access(None, 1, 1)
    return HostHere(
        server, access, Stocks(), "/", "", on_event=nothing, on_change=nothing, warn=nothing
    )


def job(threads: int = 1, mem_mb: int | None = None) -> Job:
    spec = job_spec(resources=Resources(threads=threads, mem_mb=mem_mb))
    return Job(0, spec, JobDir("/nowhere"))


def place(room: Room, a_job: Job, hosts: list[Host], held: dict[str, int] | None = None) -> str:
    found = room.find(a_job, hosts, lambda host, _: (held or {}).get(host.name, 0))
    return found.name if found else ""


def test_most_free_slots_first() -> None:
    hosts = [host("a", 2), host("b", 3)]
    room = Room(hosts, {job(): hosts[1]})
    assert [place(room, job(), hosts) for _ in range(5)] == ["a", "b", "a", "b", ""]
    assert room.is_full


def test_machine_that_holds_the_inputs_first() -> None:
    hosts = [host("a", 8), host("b", 1)]
    room = Room(hosts, {})
    assert place(room, job(), hosts, {"b": 10}) == "b"
    assert place(room, job(), hosts, {"b": 10}) == "a"


def test_memory() -> None:
    hosts = [host("a", 8, 1000)]
    room = Room(hosts, {job(mem_mb=600): hosts[0]})
    assert place(room, job(mem_mb=400), hosts) == "a"
    assert place(room, job(mem_mb=1), hosts) == ""


def test_large_job_is_not_passed_for_ever() -> None:
    hosts = [host("a", 4), host("b", 2)]
    room = Room(hosts, {job(): hosts[0]})
    assert place(room, job(4), hosts) == "", "it waits for a, which is kept for it"
    assert [place(room, job(), hosts) for _ in range(3)] == ["b", "b", ""]
