"""The engine's kind of event loop, whatever another test has imported (uvloop, by xqute)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run some work in a loop of its own."""
    policy = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())
    try:
        asyncio.run(work)
    finally:
        asyncio.set_event_loop_policy(policy)
