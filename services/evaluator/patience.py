"""How long to go on trying something that may work in a moment."""

import asyncio
import random
import time

STAGGER_S = 0.006
"""Between the first calls of workers that call one service at once. Begun together they would stay in step: all replies
come at once, and each waits until all of them are read."""


class Patience:
    """At most so many tries within so many seconds, waits included.

    Args:
        tries: how often the thing may be tried, the first time included.
        seconds: for all tries and waits together.
        longest_wait: bounds a wait that nobody asked for; it doubles from half a second.
    """

    def __init__(self, tries: int, seconds: float, longest_wait: float = 8.0):
        self.tried = 0
        self._tries = tries
        self._until = time.monotonic() + seconds
        self._longest_wait = longest_wait

    @property
    def left(self) -> float:
        """Seconds that are left, never below 0."""
        return max(0.0, self._until - time.monotonic())

    async def again(self, retry_after: float | None = None) -> bool:
        """Wait before the next try, as long as the other side asked for; False, at once, where none is left."""
        self.tried += 1
        wait = retry_after
        if wait is None:
            wait = min(0.5 * 2 ** (self.tried - 1), self._longest_wait) * random.uniform(0.5, 1)
        if self.tried >= self._tries or wait >= self.left:
            return False
        await asyncio.sleep(wait)
        return True
