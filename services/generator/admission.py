"""Refuse at the door: what cannot be answered soon is told so before anything is read of it."""

import asyncio
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from contracts.errors import Overloaded
from services.kit import error_response

ASKING = ("/ask", "/v1/chat/completions")
"""The routes whose requests the model answers."""


@dataclass(frozen=True, slots=True)
class _Route:
    """What the request log calls the route of a request that never got there."""

    path: str


class Admission:
    """Answer 429 to a question beyond those that may run and wait.

    In a burst most of the time goes into reading bodies, finding passages and counting tokens, and only what has come
    through all of that is in the engine's queue. So requests are counted from the door, and a refusal costs no more
    than a look at the counter.

    Args:
        limit: how many requests may be inside, from their first byte to the last of their answers.
        at_most_s: after this long a client that does not take its answer is broken off: it holds a place.
    """

    def __init__(self, app: ASGIApp, limit: int, at_most_s: float):
        self.app = app
        self._limit, self._at_most_s = limit, at_most_s
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in ASKING:
            return await self.app(scope, receive, send)
        if self._inside >= self._limit:
            scope["route"] = _Route(scope["path"])
            full = Overloaded(f"{self._inside} requests run and wait. Try again shortly.", retry_after=2)
            return await error_response(scope, full)(scope, receive, send)
        self._inside += 1
        try:
            async with asyncio.timeout(self._at_most_s):
                await self.app(scope, receive, send)
        finally:
            self._inside -= 1
