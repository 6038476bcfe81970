"""Slurm's states and reasons, and what each means here (squeue(1), sacct(1), 22.05 and later)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pipen_executors.states import ExitReason, Presence

PRESENCE: Final[Mapping[str, Presence]] = {
    "PENDING": Presence.PENDING,
    "REQUEUED": Presence.PENDING,
    "REQUEUE_FED": Presence.PENDING,
    "REQUEUE_HOLD": Presence.PENDING,
    "RESV_DEL_HOLD": Presence.PENDING,
    "SPECIAL_EXIT": Presence.PENDING,
    "CONFIGURING": Presence.PENDING,
    "RUNNING": Presence.RUNNING,
    "RESIZING": Presence.RUNNING,
    "SIGNALING": Presence.RUNNING,
    "STAGE_OUT": Presence.RUNNING,
    "STOPPED": Presence.RUNNING,
    "SUSPENDED": Presence.RUNNING,
    "COMPLETING": Presence.RUNNING,
}
"""States in which Slurm still has something to do with a job (squeue(1))."""

ENDS: Final[Mapping[str, ExitReason]] = {
    "BOOT_FAIL": ExitReason.NODE_FAILURE,
    "CANCELLED": ExitReason.CANCELLED,
    "COMPLETED": ExitReason.LOST,
    "DEADLINE": ExitReason.TIMEOUT,
    "FAILED": ExitReason.LAUNCH_FAILURE,
    "LAUNCH_FAILED": ExitReason.LAUNCH_FAILURE,
    "NODE_FAIL": ExitReason.NODE_FAILURE,
    "OUT_OF_MEMORY": ExitReason.OUT_OF_MEMORY,
    "PREEMPTED": ExitReason.PREEMPTED,
    "RECONFIG_FAIL": ExitReason.LAUNCH_FAILURE,
    "REVOKED": ExitReason.CANCELLED,
    "TIMEOUT": ExitReason.TIMEOUT,
}
"""Final states (squeue(1), sacct(1)) of jobs that left no exit status of their own."""

NEVER: Final = frozenset(
    [
        "AccountNotAllowed",
        "AssocMaxCpuPerJobLimit",
        "AssocMaxCPUMinutesPerJob",
        "AssocMaxMemPerJob",
        "AssocMaxNodePerJobLimit",
        "AssocMaxWallDurationPerJobLimit",
        "BadConstraints",
        "DependencyNeverSatisfied",
        "InvalidAccount",
        "InvalidQOS",
        "MaxCpuPerAccount",
        "PartitionConfig",
        "PartitionNodeLimit",
        "PartitionTimeLimit",
        "QOSMaxCpuPerJobLimit",
        "QOSMaxMemoryPerJob",
        "QOSMaxNodePerJobLimit",
        "QOSMaxWallDurationPerJobLimit",
        "QOSNotAllowed",
    ]
)
"""Reasons of a waiting job that nothing but a change by hand can clear (squeue(1))."""
