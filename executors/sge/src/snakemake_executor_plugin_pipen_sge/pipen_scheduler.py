"""Jobs of pipen and xqute on Grid Engine (see :mod:`pipen_executors.pipen_api`)."""

from xqute.schedulers.sge_scheduler import SgeScheduler as XquteSgeScheduler

from pipen_executors.pipen_api import PipenScheduler


class SgeScheduler(PipenScheduler, XquteSgeScheduler):
    """Runs jobs of pipen or xqute on Grid Engine."""

    backend = "sge"
