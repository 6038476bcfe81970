"""What to look at on this machine before a first run (see :mod:`pipen_executors.doctor`)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import psutil

from pipen_executors.doctor import Entry, Finding, Place, command, ok


async def checks(place: Place) -> AsyncIterator[Finding]:
    """Look at bash, processors and memory."""
    found, _ = await command(["/bin/bash", "--version"], "nothing: its path is fixed")
    yield found
    memory = psutil.virtual_memory().total / 2**30
    yield ok(f"{len(os.sched_getaffinity(0))} processors, {memory:.1f} GiB of memory")


async def entries(place: Place) -> AsyncIterator[Entry]:
    """Use all processors and nearly all memory."""
    yield Entry("cores", len(os.sched_getaffinity(0)), "processors of this machine")
    megabytes = psutil.virtual_memory().total // 2**20
    yield Entry(
        "resources",
        [f"mem_mb={megabytes * 9 // 10}"],
        "nine tenths of its memory, for all rules that say mem_mb",
    )
