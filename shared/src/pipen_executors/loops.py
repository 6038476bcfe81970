"""The event loop of an engine: asyncio's own, whatever the process uses elsewhere."""

from __future__ import annotations

import asyncio


def new_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop of asyncio that can start processes.

    xqute, imported by others first, sets uvloop's policy for the whole process. uvloop gives
    commands sockets as standard output, which a container's monitor keeps open: ``podman run
    --detach`` would not come to its end before the container does. Its policy has no child watcher
    either, by which asyncio's loops hear of the end of processes (before Python 3.14).
    """
    watcher = getattr(asyncio, "ThreadedChildWatcher", None)
    if watcher is not None:
        policy = asyncio.get_event_loop_policy()
        missing = asyncio.AbstractEventLoopPolicy.get_child_watcher
        # Not by calling it: Python 3.12 warns of that.
        if getattr(policy.get_child_watcher, "__func__", None) is missing:
            made = watcher()
            setattr(policy, "get_child_watcher", lambda: made)  # noqa: B010
    return asyncio.SelectorEventLoop()
