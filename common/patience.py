"""Looking at something again and again, with pauses that grow, but not for ever."""
from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

_FIRST_PAUSE = 0.1  # seconds


def looks(timeout: timedelta, longest_pause: timedelta) -> Iterator[float]:
    """Yields the seconds that have passed, again and again with pauses, until the timeout has passed."""
    start = time.monotonic()
    waited = 0.0
    while waited < timeout.total_seconds():
        yield waited
        # Often at first, or a short run would spend most of its time in here.
        waited = time.monotonic() - start
        pause = min(max(waited / 4, _FIRST_PAUSE), longest_pause.total_seconds())
        time.sleep(max(0.0, min(pause, timeout.total_seconds() - waited)))
        waited = time.monotonic() - start
