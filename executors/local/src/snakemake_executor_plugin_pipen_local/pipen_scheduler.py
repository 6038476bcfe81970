"""Jobs of pipen and xqute on this machine (see :mod:`pipen_executors.pipen_api`)."""

from xqute.schedulers.local_scheduler import LocalScheduler as XquteLocalScheduler

from pipen_executors.pipen_api import PipenScheduler


class LocalScheduler(PipenScheduler, XquteLocalScheduler):
    """Runs jobs of pipen or xqute on this machine."""

    backend = "local"
    numbers_jobs = True
