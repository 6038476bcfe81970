"""What comes from the bucket, where files appear one by one after a job has told its end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from pipen_executors.job import Job
from pipen_executors.jobdir import JobDir, prepare_root
from pipen_executors.spec import JobSpec
from snakemake_executor_plugin_pipen_gbatch.bucket import Place
from snakemake_executor_plugin_pipen_gbatch.transfer import Transfer


class Bucket:
    """Has one file more of a job each time it is asked."""

    def __init__(self, *contents: tuple[str, bytes]) -> None:
        self._contents = contents
        self.asked = 0

    async def names(self, below: str = "") -> list[str]:
        return self._event

    async def get(self, names: Iterable[str]) -> dict[str, bytes]:
        self.asked += 1
        there = dict(self._contents[: self.asked])
        return {name: there[base] for name in names if (base := name.rpartition("/")[2]) in there}

    def has_heard(self, job: Job) -> None:
        self._event = [f"events/{job.event_key}.end.0"]


def test_both_streams_are_waited_for(tmp_path: Path) -> None:
    """The long one comes last."""
    prepare_root(tmp_path)
    spec = JobSpec(
        rule="a",
        wildcards={},
        products=("a",),
        jobid="1",
        argv=("/bin/bash",),
        script=":\n",
        cwd=str(tmp_path),
        base=str(tmp_path),
    )
    job = Job(0, spec, JobDir.of(str(tmp_path), spec, str(tmp_path)))
    job.record = job.directory.open_attempt(spec, 1, spec.fingerprint())
    bucket = Bucket(("job.stderr", b"few"), ("job.stdout", b"many"))
    bucket.has_heard(job)
    files = Transfer(cast(Place, bucket), str(tmp_path))

    async def work() -> None:
        async for _ in files.events():
            break
        await files.fetch(job)

    asyncio.run(work())
    assert job.directory.read("job.stderr") == "few"
    assert job.directory.read("job.stdout") == "many"
    assert bucket.asked == 2
