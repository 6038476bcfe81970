"""What the suites of pipen-gbatch have in common: services, and backends on them."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .conformance.harness import Backend, Workflow
from .services.batch_service import BatchService
from .services.common import ServiceUnavailable
from .services.gcs import BUCKET, StorageEmulator
from .services.require import unavailable

PLAIN = Backend("pipen-gbatch")
PROJECT = "test-project"


@dataclass(frozen=True)
class Cloud:
    """A Batch and the Cloud Storage that it mounts.

    Attributes
    ----------
    batch, storage
        The tests' own.
    """

    batch: BatchService
    storage: StorageEmulator

    @property
    def env(self) -> dict[str, str]:
        """What a client needs."""
        return {**self.batch.env, **self.storage.env}


@contextlib.contextmanager
def cloud_or_skip() -> Iterator[Cloud]:
    """A cloud of the test's own."""
    storage = StorageEmulator()
    try:
        storage.start()
    except ServiceUnavailable as reason:
        unavailable(reason)
    try:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        with BatchService(storage.url, {"PATH": path, **storage.env}) as batch:
            yield Cloud(batch, storage)
    finally:
        storage.stop()


@dataclass(frozen=True)
class Bucket:
    """Where workflows run that share nothing but a bucket: the tests' own, or a real project.

    Attributes
    ----------
    project, location, name
        Of the project and the bucket.
    env
        What a client needs.
    connect
        Returns Google's client for the bucket.
    """

    project: str
    location: str
    name: str
    env: Mapping[str, str]
    connect: Callable[[], Any]


@contextlib.contextmanager
def bucket_or_skip() -> Iterator[Bucket]:
    """The bucket of a real project if one is named, one of the tests' own if not."""
    project = os.environ.get("PIPEN_TEST_GBATCH_PROJECT")
    if not project:
        with cloud_or_skip() as cloud:
            yield Bucket(PROJECT, "us-central1", BUCKET, cloud.env, cloud.storage.client)
        return
    from google.cloud import storage

    location = os.environ["PIPEN_TEST_GBATCH_LOCATION"]
    name = os.environ["PIPEN_TEST_GBATCH_BUCKET"]
    yield Bucket(project, location, name, {}, lambda: storage.Client(project=project))


def _in_bucket(cloud: Cloud, file: Path) -> str:
    """Return the text of a file of a job directory, where it still lies in the bucket."""
    below = "/".join(file.parts[-3:])
    for name in cloud.storage.names():
        if name.endswith(f"/{below}"):
            blob = cloud.storage.client().bucket(BUCKET).blob(name)
            return str(blob.download_as_bytes().decode())
    return ""


def _arguments(*more: str) -> tuple[str, ...]:
    return ("--pipen-gbatch-project", PROJECT, "--pipen-gbatch-location", "us-central1", *more)


def on_filestore(cloud: Cloud, directory: Path) -> Backend:
    """Return a backend whose jobs see a directory of the tests, as a file system of Filestore."""
    return Backend(
        "pipen-gbatch",
        arguments=_arguments(
            "--pipen-gbatch-shared-fs",
            *("--pipen-gbatch-mount", f"nfs://filestore{directory}:{directory}"),
            # Last, for `mount` takes all that follows.
            *("--pipen-gbatch-remote-workdir", f"gs://{BUCKET}/jobs"),
        ),
        environment=cloud.env,
        slowness=2.0,
        settle=20.0,
        read_elsewhere=partial(_in_bucket, cloud),
    )


def on_bucket(bucket: Bucket, prefix: str) -> Backend:
    """Return a backend whose jobs see nothing but what lies below a prefix of a bucket."""
    image = os.environ.get("PIPEN_TEST_GBATCH_IMAGE")
    return Backend(
        "pipen-gbatch",
        arguments=(
            *("--pipen-gbatch-project", bucket.project),
            *("--pipen-gbatch-location", bucket.location),
            *("--default-storage-provider", "gcs"),
            *("--default-storage-prefix", f"gs://{bucket.name}/{prefix}"),
            *("--storage-gcs-project", bucket.project),
            *(("--pipen-gbatch-image-uri", image) if image else ()),
        ),
        environment=bucket.env,
        sees_files=False,
        slowness=2.0 if bucket.env else 20.0,
        settle=20.0,
    )


class BucketWorkflow(Workflow):
    """A workflow whose files lie in a bucket; what the tests write is put there too."""

    def __init__(self, tmp_path: Path, bucket: Bucket) -> None:
        self.prefix = f"pipen-tests-{secrets.token_hex(4)}"
        self._bucket = bucket.connect().bucket(bucket.name)
        super().__init__(tmp_path, on_bucket(bucket, self.prefix))

    def object(self, name: str) -> Any:
        """Return one of the workflow's files as an object."""
        return self._bucket.blob(f"{self.prefix}/{name}")

    def names(self) -> list[str]:
        """Return the names of all objects of the workflow, relative to its place."""
        blobs = self._bucket.list_blobs(prefix=f"{self.prefix}/")
        return [blob.name.removeprefix(f"{self.prefix}/") for blob in blobs]

    def file(self, name: str, text: str | bytes = "", mode: int = 0o644) -> Path:
        """Write a file, here and in the bucket."""
        path = super().file(name, text, mode)
        self.object(name).upload_from_string(path.read_bytes())
        return path

    def read(self, name: str) -> str:
        """Return the text of an object."""
        from google.cloud.exceptions import NotFound

        try:
            return str(self.object(name).download_as_bytes().decode(errors="surrogateescape"))
        except NotFound as error:
            raise FileNotFoundError(name) from error

    def exists(self, name: str) -> bool:
        """Tell whether an object is there."""
        return bool(self.object(name).exists())

    def close(self) -> None:
        """End whatever is left, and remove the objects."""
        super().close()
        for name in self.names():
            self.object(name).delete()
