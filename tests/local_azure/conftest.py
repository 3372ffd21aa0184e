"""Scripts in the services' places, and signals that reach what the tests start."""
from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.local_azure import azurite, services
from tests.local_azure.running import STAND_IN


@pytest.fixture(autouse=True)
def signals_reach_children() -> Iterator[None]:
    """Children inherit that a signal is ignored, as under nohup or in a script's background; no other handler."""
    numbers = (signal.SIGINT, getattr(signal, 'SIGHUP', signal.SIGINT))
    ignored = [number for number in numbers if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, lambda *_: None)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The script that runs in Azurite's place."""
    script = tmp_path / 'stand-in.js'
    script.write_text(STAND_IN)
    monkeypatch.setattr(azurite, 'install', lambda: script)
    return script


@pytest.fixture
def stand_ins(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The script that runs in the place of both services."""
    monkeypatch.setattr(services, '_batch_command', lambda *_: azurite.command(stand_in, Path(), 0, None, None))
    monkeypatch.setattr(services, '_PROJECT', stand_in.parent)
    return stand_in
