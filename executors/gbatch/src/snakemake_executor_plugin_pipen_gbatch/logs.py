"""Cloud Logging: what a task wrote whose script never ran."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

import grpc
from google.cloud.logging_v2.services.logging_service_v2 import LoggingServiceV2AsyncClient
from google.cloud.logging_v2.services.logging_service_v2.transports import (
    LoggingServiceV2GrpcAsyncIOTransport,
)
from google.cloud.logging_v2.types import ListLogEntriesRequest

from .calls import EMULATOR, told_apart

_PATIENCE: Final = 20.0


async def last_lines(project: str, uid: str, task: int, count: int = 10) -> Sequence[str]:
    """Return the last lines that a task wrote.

    Parameters
    ----------
    project
        Id of the project.
    uid
        The job's uid, which is not its id.
    task
        Number of the task.
    count
        How many lines.

    Raises
    ------
    SchedulerError
        If the log cannot be read.
    """
    request = ListLogEntriesRequest(
        resource_names=[f"projects/{project}"],
        filter=(
            f'logName="projects/{project}/logs/batch_task_logs" '
            f'labels.job_uid="{uid}" labels.task_id:"group0-{task}/"'
        ),
        order_by="timestamp desc",
        page_size=count,
    )
    with told_apart("Cloud Logging"):
        if address := os.environ.get(EMULATOR):
            channel = grpc.aio.insecure_channel(address)
            transport = LoggingServiceV2GrpcAsyncIOTransport(channel=channel)
            client = LoggingServiceV2AsyncClient(transport=transport)
        else:
            client = LoggingServiceV2AsyncClient()
        try:
            pager = await client.list_log_entries(request, timeout=_PATIENCE, retry=None)
            async for page in pager.pages:
                return [entry.text_payload.rstrip() for entry in reversed(page.entries)][-count:]
        finally:
            await client.transport.close()  # type: ignore[no-untyped-call]
    return []
