"""Calls of the Batch API, each with its errors told apart.

Every call raises :class:`~pipen_executors.exceptions.TransientError` when Batch could not be
reached or asked to come back later, and :class:`~pipen_executors.exceptions.SchedulerError`
with its own words when it refused.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

import grpc
from google.api_core import exceptions as answers
from google.auth import exceptions as login
from google.cloud import batch_v1
from google.cloud.batch_v1.services.batch_service.transports import (
    BatchServiceGrpcAsyncIOTransport,
)
from google.cloud.location import locations_pb2

from pipen_executors.exceptions import SchedulerError, TransientError

_PATIENCE: Final = 60.0
"""Seconds that one call may take."""
_PAGE: Final = 1000
EMULATOR: Final = "BATCH_EMULATOR_HOST"
"""Variable that names a server to use in place of Google's, as other clients of Google have
it (``STORAGE_EMULATOR_HOST``)."""
_TRANSIENT: Final = (
    answers.TooManyRequests,  # with ResourceExhausted: more calls than the quota allows
    answers.ServerError,  # ServiceUnavailable, InternalServerError, DeadlineExceeded …
    answers.Aborted,
    answers.RetryError,
    login.TransportError,
    ConnectionError,
    TimeoutError,
)


@contextlib.contextmanager
def told_apart(service: str = "Google Batch") -> Iterator[None]:
    """Turn errors of Google's clients into those that say what to do."""
    try:
        yield
    except _TRANSIENT as error:
        raise TransientError(f"{service} does not answer: {_text(error)}") from error
    except (answers.GoogleAPICallError, login.GoogleAuthError) as error:
        raise SchedulerError(f"{service}: {_text(error)}") from error


def _text(error: Exception) -> str:
    text = str(getattr(error, "message", "")) or str(error) or repr(error)
    return " ".join(text.split())


class Calls:
    """The Batch API for one project and location; used in one event loop.

    Parameters
    ----------
    project, location
        As in the console.
    """

    def __init__(self, project: str, location: str) -> None:
        self.parent = f"projects/{project}/locations/{location}"
        with told_apart():
            if address := os.environ.get(EMULATOR):
                channel = grpc.aio.insecure_channel(address)
                transport = BatchServiceGrpcAsyncIOTransport(channel=channel)
                self._client = batch_v1.BatchServiceAsyncClient(transport=transport)
            else:
                self._client = batch_v1.BatchServiceAsyncClient()

    def name(self, job_id: str) -> str:
        """Return the resource name of a job."""
        return f"{self.parent}/jobs/{job_id}"

    async def create(self, job_id: str, job: batch_v1.Job) -> None:
        """Create a job; one of this id is the same job, whose answer was lost."""
        request = batch_v1.CreateJobRequest(parent=self.parent, job_id=job_id, job=job)
        with told_apart(), contextlib.suppress(answers.AlreadyExists):
            await self._client.create_job(request, timeout=_PATIENCE, retry=None)

    async def jobs(self, label: str, value: str) -> list[batch_v1.Job]:
        """Return all jobs with a label."""
        request = batch_v1.ListJobsRequest(
            parent=self.parent, filter=f'labels.{label}="{value}"', page_size=_PAGE
        )
        with told_apart():
            pager = await self._client.list_jobs(request, timeout=_PATIENCE, retry=None)
            return [job async for job in pager]

    async def any_jobs(self) -> bool:
        """Ask for the jobs of the project and location; tell whether there are any."""
        request = batch_v1.ListJobsRequest(parent=self.parent, page_size=1)
        with told_apart():
            pager = await self._client.list_jobs(request, timeout=_PATIENCE, retry=None)
            return bool(pager.jobs)

    async def locations(self) -> list[str]:
        """Return the regions in which Batch runs jobs of the project."""
        found: list[str] = []
        request = locations_pb2.ListLocationsRequest(name=self.parent.partition("/locations/")[0])
        while True:
            with told_apart():
                answer = await self._client.list_locations(request, timeout=_PATIENCE, retry=None)
            found += [location.location_id for location in answer.locations]
            if not answer.next_page_token:
                return sorted(found)
            request.page_token = answer.next_page_token

    async def job(self, job_id: str) -> batch_v1.Job | None:
        """Return a job, None if there is none of this id."""
        request = batch_v1.GetJobRequest(name=self.name(job_id))
        with told_apart(), contextlib.suppress(answers.NotFound):
            return await self._client.get_job(request, timeout=_PATIENCE, retry=None)
        return None

    async def tasks(self, job_id: str) -> dict[int, batch_v1.TaskStatus]:
        """Return how the tasks of a job stand, by their number; none if there is no such job."""
        request = batch_v1.ListTasksRequest(
            parent=f"{self.name(job_id)}/taskGroups/group0", page_size=_PAGE
        )
        with told_apart(), contextlib.suppress(answers.NotFound):
            pager = await self._client.list_tasks(request, timeout=_PATIENCE, retry=None)
            return {int(task.name.rpartition("/")[2]): task.status async for task in pager}
        return {}

    async def cancel(self, job_id: str) -> None:
        """Ask for the end of a job and all of its tasks; one that has ended is left alone."""
        request = batch_v1.CancelJobRequest(name=self.name(job_id))
        with told_apart(), contextlib.suppress(answers.NotFound, answers.FailedPrecondition):
            await self._client.cancel_job(request, timeout=_PATIENCE, retry=None)

    async def close(self) -> None:
        """Let go of the connection."""
        await self._client.transport.close()  # type: ignore[no-untyped-call]
