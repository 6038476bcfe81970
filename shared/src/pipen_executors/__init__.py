"""The layer shared by the pipen executor plugins for Snakemake.

Importing this package, :mod:`pipen_executors.settings` and
:mod:`pipen_executors.executor` is cheap, because Snakemake imports every
installed executor plugin at every start. xqute and the engine are imported only
when a workflow is executed.
"""

from .registry import get_scheduler

__all__ = ["get_scheduler"]
__version__ = "0.1.0"
