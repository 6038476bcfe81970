"""Signals to Snakemake's main process, where Snakemake leaves something to be desired.

Both functions do nothing outside of the main thread, which alone may set handlers.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any


def defer_sigterm(scheduler: Any) -> None:
    """Let SIGTERM do what Snakemake wants it to do without ever blocking.

    Snakemake's handler takes a lock that is not reentrant, and the main thread holds it
    whenever it takes in results: a signal in such a moment would make it wait for itself for
    ever. In a thread of its own the handler waits until the lock is free.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    handler = signal.getsignal(signal.SIGTERM)
    if getattr(handler, "__self__", None) is scheduler and callable(handler):
        begin: Callable[..., Any] = handler

        def in_a_thread(*arguments: Any) -> None:
            threading.Thread(target=begin, args=arguments, daemon=True).start()

        signal.signal(signal.SIGTERM, in_a_thread)


@contextlib.contextmanager
def interruptible(answer: Callable[[int], None]) -> Iterator[None]:
    """Let Ctrl-C be answered while jobs are being cancelled, in place of KeyboardInterrupt.

    Where Snakemake is the command that runs, SIGINT stays without effect afterwards: what is
    left to do is short, and a KeyboardInterrupt in it would be shown as a traceback. In a
    program that uses Snakemake as a library, the handler is put back.

    Parameters
    ----------
    answer
        Called in the main thread with the number of the signal since the beginning, from 1.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    number = 0

    def count(*_: Any) -> None:
        nonlocal number
        number += 1
        answer(number)

    before = signal.signal(signal.SIGINT, count)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN if _is_command() else before)


def _is_command() -> bool:
    """Tell whether this process is the command ``snakemake``, not a program that uses it."""
    main = sys.modules.get("__main__")
    path = str(getattr(main, "__file__", ""))
    return path.endswith(("/snakemake", "/snakemake/__main__.py"))
