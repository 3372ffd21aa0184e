"""``pytest --hypothesis-profile=long tests/batch_service/life`` looks for longer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from common.batch_service.store import Store

settings.register_profile('long', max_examples=5_000, deadline=None)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / 'batch.db')
    yield store
    store.close()
