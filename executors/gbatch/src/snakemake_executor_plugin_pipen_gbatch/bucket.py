"""The place in Cloud Storage where the job directories of a run lie.

Calls are made in threads of their own: Google's client for Cloud Storage knows no asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from cloudpathlib import GSClient
from google.api_core.exceptions import NotFound, PreconditionFailed
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY
from requests.adapters import HTTPAdapter

from .calls import told_apart

T = TypeVar("T")

_AT_A_TIME: Final = 32
_RETRY: Final = DEFAULT_RETRY.with_timeout(20)
_PATIENCE: Final = 30.0


class Place:
    """All objects below one address.

    Parameters
    ----------
    address
        ``gs://bucket/prefix``.
    project
        Whose quota pays.

    Raises
    ------
    SchedulerError
        If there are no credentials.
    """

    def __init__(self, address: str, project: str) -> None:
        self.address = address
        if os.environ.get("STORAGE_EMULATOR_HOST"):
            login = AnonymousCredentials()  # type: ignore[no-untyped-call]
            client = storage.Client(project=project, credentials=login)
            self._client = GSClient(storage_client=client)
        else:
            with told_apart("Cloud Storage"):
                self._client = GSClient(project=project)
        plain = self._client.client
        # As many connections as there are threads, or each call begins with a handshake.
        plain._http.mount("https://", HTTPAdapter(pool_maxsize=_AT_A_TIME))
        plain._http.mount("http://", HTTPAdapter(pool_maxsize=_AT_A_TIME))
        path = self._client.CloudPath(address)
        self._prefix = f"{path.blob}/" if path.blob else ""
        self._bucket = plain.bucket(path.bucket)
        self._threads = ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="pipen-gbatch")

    async def _call(self, call: Callable[[], T]) -> T:
        def told() -> T:
            with told_apart("Cloud Storage"):
                return call()

        return await asyncio.get_running_loop().run_in_executor(self._threads, told)

    def _blob(self, name: str) -> storage.Blob:
        return self._bucket.blob(self._prefix + name)

    async def put(self, files: Mapping[str, bytes]) -> None:
        """Write objects; names are relative to the place."""

        def put_one(name: str, content: bytes) -> Callable[[], None]:
            return lambda: self._blob(name).upload_from_string(
                content, timeout=_PATIENCE, retry=_RETRY
            )

        await asyncio.gather(*(self._call(put_one(n, c)) for n, c in files.items()))

    async def put_new(self, name: str) -> bool:
        """Make an empty object; False if there is one of this name already. Atomic."""

        def put() -> bool:
            try:
                self._blob(name).upload_from_string(
                    b"", if_generation_match=0, timeout=_PATIENCE, retry=_RETRY
                )
            except PreconditionFailed:
                return False
            return True

        return await self._call(put)

    async def get(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return what is in objects; those that are not there are left out."""

        def get_one(name: str) -> Callable[[], tuple[str, bytes | None]]:
            def get() -> tuple[str, bytes | None]:
                with contextlib.suppress(NotFound):
                    return name, self._blob(name).download_as_bytes(timeout=_PATIENCE, retry=_RETRY)
                return name, None

            return get

        found = await asyncio.gather(*(self._call(get_one(name)) for name in names))
        return {name: content for name, content in found if content is not None}

    async def names(self, below: str = "") -> list[str]:
        """Return the names of all objects below a directory, by one listing."""

        def listed() -> list[str]:
            blobs = self._client.client.list_blobs(
                self._bucket,
                prefix=f"{self._prefix}{below}",
                fields="items(name),nextPageToken",
                timeout=_PATIENCE,
                retry=_RETRY,
            )
            return [blob.name.removeprefix(self._prefix) for blob in blobs]

        return await self._call(listed)

    async def missing(self, addresses: Iterable[str]) -> list[str]:
        """Return those addresses, in any bucket, at and below which there is nothing."""

        def look_for(address: str) -> Callable[[], bool]:
            def is_missing() -> bool:
                path = self._client.CloudPath(address)
                bucket = self._client.client.bucket(path.bucket)
                if bucket.blob(path.blob).exists(timeout=_PATIENCE, retry=_RETRY):
                    return False
                below = self._client.client.list_blobs(
                    bucket, prefix=f"{path.blob}/", max_results=1, timeout=_PATIENCE, retry=_RETRY
                )
                return not any(below)

            return is_missing

        wanted = list(addresses)
        found = await asyncio.gather(*(self._call(look_for(one)) for one in wanted))
        return [one for one, is_missing in zip(wanted, found, strict=True) if is_missing]

    async def delete(self, names: Iterable[str]) -> None:
        """Remove objects, those that are there."""

        def delete_one(name: str) -> Callable[[], None]:
            def delete() -> None:
                with contextlib.suppress(NotFound):
                    self._blob(name).delete(timeout=_PATIENCE, retry=_RETRY)

            return delete

        await asyncio.gather(*(self._call(delete_one(name)) for name in names))

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown()
