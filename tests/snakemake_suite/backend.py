"""What the driver has to know of an executor to send the suite through it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

#: The executor that the others are compared with.
BUILT_IN = "local"


@dataclass(frozen=True)
class Backend:
    """An executor under test.

    Attributes
    ----------
    executor
        The name after ``--executor``.
    arguments
        Its settings as they are given to ``snakemake``, for example
        ``("--pipen-slurm-partition", "debug")``. One form serves both ways in which the suite
        starts Snakemake, by its API and by its command line.
    run
        Arguments for ``tests.common.run`` when the test itself does not give them, for example
        ``{"nodes": 8}``. An executor that is not local gets ``nodes=3`` by itself.
    """

    executor: str
    arguments: tuple[str, ...] = ()
    run: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the form that :meth:`from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Backend:
        """Read what :meth:`to_json` wrote."""
        values = json.loads(text)
        return cls(values["executor"], tuple(values["arguments"]), values["run"])
