"""The time of this machine."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """POSIX time, so that deadlines outlive the process."""

    def now(self) -> float:
        """Return the POSIX time in seconds."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
