"""The life cycle leaves out nothing that the SDK can ask for."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import azure.batch
import pytest

from .client import GENERATION, OPERATIONS, offered


def _operations_of_the_sdk() -> set[str]:
    if GENERATION == 'v14':
        return {f'{attribute}.{name}'
                for attribute, group in vars(azure.batch.BatchServiceClient('', '')).items()
                if type(group).__name__.endswith('Operations')
                for name, _ in inspect.getmembers(group, inspect.ismethod) if not name.startswith('_')}
    no_operations = {'close', 'send_request', 'create_task_collection'}  # the last is one request of create_tasks
    return {name for name, _ in inspect.getmembers(azure.batch.BatchClient, inspect.isfunction)
            if not name.startswith('_')} - no_operations


def test_every_operation_of_the_sdk_has_a_name_here() -> None:
    here = {getattr(operation, GENERATION) for operation in OPERATIONS.values()}
    assert here - {''} == _operations_of_the_sdk()


@pytest.mark.parametrize('operation', list(filter(offered, OPERATIONS)))
def test_operation_is_called_by_a_test(operation) -> None:
    called = re.compile(rf"\b(\w*client|read)\.{operation}\b|'{operation}'")
    assert any(called.search(file.read_text()) for file in Path(__file__).parent.glob('test_*.py'))
