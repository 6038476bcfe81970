"""Errors that schedulers and settings raise, and what each asks of the caller."""

from snakemake_interface_common.exceptions import ApiError

from .plain_text import plain
from .states import ExitReason


class UserError(ApiError):
    """Something that the user can mend; Snakemake shows it as one line, without a traceback."""

    def __init__(self, text: str) -> None:
        super().__init__(plain(text))


class SettingError(UserError):
    """A setting or a resource of a rule has a value that cannot be right.

    Parameters
    ----------
    where
        The setting as the user wrote it, for example ``--pipen-local-forks`` or
        ``resource pipen_timeout of rule align``.
    value
        The value that was given; None if there is none.
    problem
        A sentence, without its full stop, that says what is wrong with it or what would be
        right (``expected a whole number, 1 or more``).
    """

    def __init__(self, where: str, value: object, problem: str) -> None:
        shown = "not set" if value is None else repr(value)
        super().__init__(f"{where} is {shown}: {problem}.")


class SchedulerError(Exception):
    """The scheduler refused a request for good; the text is the scheduler's own.

    Parameters
    ----------
    text
        What the scheduler says.
    reason
        Why a job that was refused has failed.
    """

    def __init__(self, text: str, reason: ExitReason = ExitReason.SUBMIT_FAILURE) -> None:
        super().__init__(plain(text))
        self.reason = reason


class TransientError(SchedulerError):
    """The scheduler could not be asked, or asked to come back later.

    Says nothing about any job. The engine repeats the request with back-off.
    """


class NoSuchSchedulerError(UserError):
    """There is no scheduler of a name, or none that can be loaded; the text lists what there is."""


class WrongSchedulerTypeError(UserError, TypeError):
    """What was named as a scheduler is no subclass of xqute's ``Scheduler``."""
