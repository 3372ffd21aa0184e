from __future__ import annotations

import asyncio
from pathlib import Path

from common.batch_service.node import Command, Node


class BrokenTransfers:
    """Fails as no transfer should."""

    async def fetch(self, resource_files: list[dict], directory: Path) -> None:
        raise ZeroDivisionError('unforeseen')


def test_command_that_cannot_be_run_for_an_unforeseen_reason_has_an_outcome(tmp_path: Path, caplog) -> None:
    node = Node(tmp_path, tmp_path, {}, BrokenTransfers(), None)
    outcome = asyncio.run(node.run(Command('true', tmp_path / 'task', {}), asyncio.Event()))
    assert outcome.exit_code is None
    assert outcome.failure_info['code'] == 'Unknown'
    assert outcome.failure_info['message'] == 'ZeroDivisionError: unforeseen'
    assert 'The node failed to run' in caplog.text
