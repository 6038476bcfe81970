"""pipen-gbatch: the conformance suite on the tests' own Batch and an emulator of Cloud Storage.

What goes wrong with Batch, and how often it is asked, is in test_gbatch_faults.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .conformance.cancelling import Cancelling
from .conformance.ending import Failures, Success, Timeouts
from .conformance.environment import Environment, Scripts
from .conformance.extremes import Extremes
from .conformance.hooking import Hooks
from .conformance.kinds import Code, Kinds, Outputs
from .conformance.resuming import Resuming
from .conformance.settings import BadSettings, Execution, GoodSettings, Metadata
from .conformance.strategies import Halt, KeepGoing, Retries
from .gbatch_support import (
    PLAIN,
    Bucket,
    BucketWorkflow,
    Cloud,
    bucket_or_skip,
    cloud_or_skip,
    on_filestore,
)

pytestmark = pytest.mark.gbatch


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    """A Batch and a Cloud Storage."""
    with cloud_or_skip() as running:
        yield running


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    """A bucket, and the Batch that mounts it."""
    with bucket_or_skip() as one:
        yield one


@pytest.fixture
def on_cloud(
    request: pytest.FixtureRequest, cloud: Cloud, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The directories of the tests as a file system of Filestore."""
    request.cls.backend = on_filestore(cloud, Path(tmp_path_factory.getbasetemp()).resolve())


@pytest.mark.usefixtures("on_cloud")
class TestGbatch(
    Success, Failures, Retries, KeepGoing, Halt, Cancelling, Execution, Metadata, Resuming
):
    """What a scheduler can do wrong, where jobs see the working directory."""

    __test__ = True
    backend = PLAIN


@pytest.mark.slow
@pytest.mark.usefixtures("on_cloud")
class TestGbatchFurther(
    Timeouts,
    Outputs,
    Kinds,
    Code,
    Environment,
    Scripts,
    Hooks,
    Extremes,
    BadSettings,
    GoodSettings,
):
    """The rest of the suite."""

    __test__ = True
    backend = PLAIN


class TestGbatchBucket(Success, Failures, Execution):
    """The essential part where nothing is shared but the bucket; on a real project too."""

    __test__ = True
    backend = PLAIN

    @pytest.fixture
    def workflow(self, tmp_path: Path, bucket: Bucket) -> Iterator[BucketWorkflow]:
        one = BucketWorkflow(tmp_path, bucket)
        try:
            type(self).backend = one.backend
            yield one
        finally:
            one.close()
