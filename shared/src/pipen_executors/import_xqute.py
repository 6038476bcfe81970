"""xqute, imported without what that does to the whole process.

It sets uvloop's event loop policy. Whoever imports a module of xqute imports this one
first.
"""

import asyncio

_policy = asyncio.get_event_loop_policy()
import xqute as xqute  # noqa: E402

asyncio.set_event_loop_policy(_policy)
