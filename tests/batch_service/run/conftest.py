from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def free_for_all(tmp_path: Path) -> Path:
    """A directory that an ordinary user may use; those of pytest are root's alone when it is run by root."""
    for directory in (tmp_path, *list(tmp_path.parents)[:3]):
        if directory.owner() == Path.home().owner() and directory != Path('/tmp'):
            directory.chmod(0o711)
    free = tmp_path / 'free'
    free.mkdir()
    free.chmod(0o777)
    return free
