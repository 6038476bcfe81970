"""The live line: how many jobs wait, run and have ended, while they do.

On a terminal one line below Snakemake's messages, redrawn twice a second; in a plain log a
line now and then, at intervals that widen as the run goes on.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from .plain_text import plain_line
from .states import Phase

if TYPE_CHECKING:
    from .history import Change

_REDRAW: Final = 0.5
_FIRST_LINE: Final = 30.0
_WIDENING: Final = 1.5
_LONGEST: Final = 1800.0
STYLES: Final[Mapping[Phase, str]] = {
    Phase.QUEUED: "dim",
    Phase.PENDING: "yellow",
    Phase.RUNNING: "cyan",
    Phase.DONE: "green",
    Phase.FAILED: "bold red",
    Phase.CANCELLED: "magenta",
}
"""How a state looks on a terminal."""


def counts_line(counts: Mapping[Phase, int], reasons: Mapping[str, int]) -> str:
    """Return one line of counts, with the commonest reason for which jobs wait."""
    parts = [f"{counts[phase]} {phase}" for phase in Phase if counts.get(phase)]
    line = ", ".join(parts) or "none yet"
    if counts.get(Phase.PENDING) and reasons:
        commonest = max(reasons, key=lambda reason: reasons[reason])
        line += f" (waiting: {plain_line(commonest)})"
    return f"Jobs: {line}"


def is_quiet(asked: Iterable[Any] | None) -> bool:
    """Tell whether Snakemake was asked (--quiet) to leave progress out."""
    words = (str(getattr(word, "value", word)).lower() for word in asked or ())
    return not {"progress", "all"}.isdisjoint(words)


class Live:
    """Shows the counts of a run; called from the engines' threads.

    Parameters
    ----------
    logger
        Snakemake's, whose messages go to the terminal.
    quiet
        Whether to show nothing.
    """

    def __init__(self, logger: logging.Logger, *, quiet: bool = False) -> None:
        self._logger = logger
        self._quiet = quiet
        self._phases: dict[str, Phase] = {}
        self._reasons: dict[str, str] = {}
        self._counts: Counter[Phase] = Counter()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, change: Change) -> None:
        """Take in a change of a job's state."""
        which = change.job.spec.key
        with self._lock:
            if before := self._phases.get(which):
                self._counts[before] -= 1
            self._phases[which] = change.phase
            self._counts[change.phase] += 1
            if change.phase is Phase.PENDING and change.facts.get("reason"):
                self._reasons[which] = change.facts["reason"]
            else:
                self._reasons.pop(which, None)

    def start(self) -> None:
        """Begin to show it."""
        if self._quiet:
            return
        stream = _terminal_of(self._logger)
        work = self._count_now_and_then if stream is None else self._draw
        arguments = () if stream is None else (stream,)
        self._thread = threading.Thread(target=work, args=arguments, name="pipen-live", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Show no more, and leave nothing on the terminal."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _line(self) -> str:
        with self._lock:
            return counts_line(self._counts, Counter(self._reasons.values()))

    def _count_now_and_then(self) -> None:
        interval, last = _FIRST_LINE, ""
        while not self._stop.wait(interval):
            line = self._line()
            if line != last:
                self._logger.info(line)
            last = line
            interval = min(interval * _WIDENING, _LONGEST)

    def _draw(self, handler: logging.StreamHandler[Any]) -> None:
        from rich.console import Console
        from rich.control import Control
        from rich.segment import ControlType

        console = Console(file=handler.stream)
        erase = Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2))

        drawn = ""

        def make_way(record: logging.LogRecord) -> bool:
            nonlocal drawn
            if drawn:
                console.control(erase)
                drawn = ""
            return True

        # A message of Snakemake is written where the line was; the line comes back below it.
        handler.addFilter(make_way)
        try:
            while not self._stop.wait(_REDRAW):
                line = self._line()
                if line == drawn:
                    continue
                with _held(handler):
                    console.control(erase)
                    console.print(
                        line, style="dim", end="", no_wrap=True, overflow="ellipsis",
                        highlight=False, crop=True,
                    )  # fmt: skip
                    drawn = line
        finally:
            handler.removeFilter(make_way)
            with _held(handler):
                console.control(erase)


def _terminal_of(logger: logging.Logger) -> logging.StreamHandler[Any] | None:
    """Return the handler that writes Snakemake's messages to a terminal, if one does."""
    for handler in logger.handlers:
        stream = getattr(handler, "stream", None)
        if isinstance(handler, logging.StreamHandler) and stream is not None and stream.isatty():
            return handler
    return None


@contextlib.contextmanager
def _held(handler: logging.Handler) -> Iterator[None]:
    """Keep messages from being written."""
    handler.acquire()
    try:
        yield
    finally:
        handler.release()
