"""What tests of Ctrl-C stand on."""
from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture
def default_ctrl_c() -> Iterator[None]:
    """Ctrl-C as Python has it by itself, where the tests were started with it ignored, too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
