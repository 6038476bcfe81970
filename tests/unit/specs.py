"""Specifications of jobs, of which a test says only what it is about."""

from __future__ import annotations

from typing import Any

from pipen_executors.spec import JobSpec


def job_spec(rule: str = "r", *, cwd: str = "/", **changes: Any) -> JobSpec:
    """Return the specification of a job that asks for nothing, makes nothing and does nothing."""
    fields: dict[str, Any] = {
        "wildcards": {},
        "products": (),
        "jobid": "1",
        "argv": ("/bin/bash",),
        "script": "",
        "base": cwd,
    }
    return JobSpec(rule=rule, cwd=cwd, **fields | changes)
