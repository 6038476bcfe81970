"""What comes from the bucket, where files appear one by one after a job has told its end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from pipen_executors.job import Job
from pipen_executors.jobdir import JobDir, prepare_root
from snakemake_executor_plugin_pipen_gbatch.bucket import Place
from snakemake_executor_plugin_pipen_gbatch.transfer import Transfer

from .specs import job_spec


class Bucket:
    """Has one file more of a job each time it is asked."""

    def __init__(self, event: str, *contents: tuple[str, bytes]) -> None:
        self._event = event
        self._contents = contents
        self.asked = 0

    async def names(self, below: str = "") -> list[str]:
        return [self._event]

    async def get(self, names: Iterable[str]) -> dict[str, bytes]:
        self.asked += 1
        there = dict(self._contents[: self.asked])
        return {name: there[base] for name in names if (base := name.rpartition("/")[2]) in there}


def test_both_streams_are_waited_for(tmp_path: Path) -> None:
    """The long one comes last."""
    prepare_root(tmp_path)
    spec = job_spec()
    job = Job(0, spec, JobDir.of(str(tmp_path), spec, str(tmp_path)))
    job.record = job.directory.open_attempt(spec, 1, spec.fingerprint())
    end = f"events/{job.event_key}.end.0"
    bucket = Bucket(end, ("job.stderr", b"few"), ("job.stdout", b"many"))
    files = Transfer(cast(Place, bucket), str(tmp_path))

    async def work() -> None:
        async for _ in files.events():
            break
        await files.fetch(job)

    asyncio.run(work())
    assert job.directory.read("job.stderr") == "few"
    assert job.directory.read("job.stdout") == "many"
    assert bucket.asked == 2
