"""Records what Docker and Podman print, on the tests' own runtimes.

``python -m tests.recorded.container.record`` writes ``<runtime>.json`` beside this file: for
each case the command, its exit status and its output.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.services.common import free_ports
from tests.services.containers import IMAGE, VOLUMES, Docker, Podman, Registry, Runtime

RUN = [
    *("run", "--detach", "--network=host", "--pull=never"),
    *(word for volume in VOLUMES for word in ("--volume", volume)),
]
LABEL = "--label=pipen.root=mine"
KEPT_FACTS = ("SecurityOptions", "NCPU", "CpuCfsQuota", "MemoryLimit", "ServerErrors")
"""Of all that ``docker info`` says of a machine."""


def record(runtime: Runtime) -> dict[str, dict[str, Any]]:
    """Return what the runtime says in each case."""
    found: dict[str, dict[str, Any]] = {}

    def note(case: str, *words: str) -> None:
        done = runtime.run(*words, check=False)
        out, err = (_without_machine(text, runtime) for text in (done.stdout, done.stderr))
        found[case] = {"argv": list(words), "rc": done.returncode, "stdout": out, "stderr": err}

    (closed,) = free_ports(1)
    note("version", "--version")
    note("unknown-image", *RUN, "localhost/no-such:1", "true")
    note("no-program", *RUN, "--name=c1", "--entrypoint=/bin/no-shell", IMAGE)
    note("not-executable", *RUN, "--name=c2", "--entrypoint=/etc", IMAGE)
    note("no-source", *RUN, "--mount=type=bind,source=/no/such,target=/x", IMAGE, "true")
    note("bad-option", *RUN, "--no-such-flag", IMAGE, "true")
    runtime.run(*RUN, "--name=c3", LABEL, IMAGE, "sleep", "60")
    note("taken-name", *RUN, "--name=c3", IMAGE, "true")
    runtime.run(*RUN, "--name=c4", LABEL, IMAGE, "/bin/bash", "-c", "exit 9")
    runtime.run("wait", "c4")
    note("ps", "ps", "--all", "--format={{.Names}}\t{{.Status}}")
    note("inspect", "inspect", "--type=container", "c2", "c3", "c4", "gone")
    note("stop-unknown", "stop", "--time=1", "gone")
    note("kill", "kill", "c3")
    note("pull-unreachable", "pull", f"localhost:{closed}/no-such:1")
    with Registry(runtime) as registry:
        note("pull-unknown", "pull", registry.publish(IMAGE, "there:1").replace("there", "not"))
    kind = "json" if runtime.name == "podman" else "{{json .}}"
    note("info", "info", f"--format={kind}")
    info = json.loads(found["info"]["stdout"])
    if runtime.name == "docker":
        kept: dict[str, Any] = {name: info.get(name) for name in KEPT_FACTS}
    else:
        host = info["host"]
        kept = {"host": {name: host[name] for name in ("cgroupControllers", "cpus", "security")}}
    found["info"]["stdout"] = json.dumps(kept)
    return found


def _without_machine(text: str, runtime: Runtime) -> str:
    return re.sub(r"localhost:\d+", "localhost:5000", text.replace(str(runtime.base), "/base"))


def main() -> None:
    """Record on both."""
    for runtime in (Podman(), Docker()):
        with runtime:
            text = json.dumps(record(runtime), indent=1, sort_keys=True)
        Path(__file__).with_name(f"{runtime.name}.json").write_text(text + "\n")
        print(f"{runtime.name}: recorded", file=sys.stderr)


if __name__ == "__main__":
    main()
