"""Who may import whom: the arrows between the parts of the project run one way, and there is no circle."""
from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent

# For each part, what of this project it may import: a module, or with '.*' also all that is inside it.
_BASE = ('common.batch_service.errors', 'common.batch_service.values')
_STORE = ('common.batch_service.store', 'common.batch_service.settings')
MAY_IMPORT = {
    'python_tutorial_client': ('common.guards', 'common.helpers'),
    'python_tutorial_task': (),
    'common.guards': ('common.guards.*', 'common.local_azure', 'common.helpers', 'common.entra', 'common.loopback',
                      'common.redaction', 'common.side_by_side'),
    'common.helpers': ('common.redaction',),
    'common.entra': (),
    'common.local_azure': ('common.local_azure.*', 'common.batch_service.settings', 'common.loopback'),
    'common.batch_service': ('common.batch_service.*',),
    'common.batch_service.page': (*_BASE, 'common.batch_service.page.*', 'common.batch_service.server',
                                  'common.batch_service.service', 'common.batch_service.settings',
                                  'common.batch_service.wire.*'),
    'common.batch_service.server': (*_BASE, 'common.batch_service.api', 'common.batch_service.wire.*'),
    'common.batch_service.api': (*_BASE, 'common.batch_service.wire.*', 'common.batch_service.life.*'),
    'common.batch_service.wire': (*_BASE, 'common.batch_service.wire.*', *_STORE),
    'common.batch_service.run': (*_BASE, 'common.batch_service.run.*', 'common.batch_service.life.*', *_STORE),
    'common.batch_service.life': (*_BASE, 'common.batch_service.life.*', *_STORE),
    'common.batch_service.store': _BASE,
    'common.batch_service.settings': (),
    'common.loopback': (),
    'common.redaction': (),
    'common.side_by_side': (),
    'common': (),
}


def module_name(path: Path) -> str:
    return '.'.join(path.relative_to(PROJECT).with_suffix('').parts).removesuffix('.__init__')


MODULES = {module_name(path): path for path in [*PROJECT.glob('python_tutorial_*.py'),
                                                *sorted((PROJECT / 'common').rglob('*.py'))]}


@functools.cache
def parsed(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding='utf-8'))


def imports(name: str, *, for_types: bool = True) -> Iterator[str]:
    """Yields what a module imports, wherever in it, without or with what only a type checker reads."""
    path = MODULES[name]
    package = name if path.name == '__init__.py' else name.rpartition('.')[0]
    unread: list[ast.AST] = [parsed(path)]
    while unread:
        node = unread.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith('TYPE_CHECKING') and not for_types:
            unread += node.orelse
            continue
        unread += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split('.')[:len(package.split('.')) - node.level + 1] if node.level else []
            base = '.'.join([*above, *filter(None, [node.module])])
            # What is named may be a module itself, or something in the module before it.
            yield from (inner if (inner := f'{base}.{alias.name}') in MODULES else base for alias in node.names)


def of_this_project(name: str) -> bool:
    return name.partition('.')[0] in ('common', 'tests', 'python_tutorial_client', 'python_tutorial_task')


def part_of(name: str) -> str:
    """Returns the part that the module belongs to; '' for a new file of common/ that has been given none."""
    return next((part for part in sorted(MAY_IMPORT, reverse=True)
                 if name == part or part != 'common' and name.startswith(f'{part}.')), '')


@pytest.mark.parametrize('name', sorted(MODULES))
def test_a_module_imports_only_what_its_part_may(name: str) -> None:
    assert part_of(name), 'MAY_IMPORT does not say what it may import'
    allowed = MAY_IMPORT[part_of(name)]

    assert [imported for imported in imports(name) if of_this_project(imported) and not any(
        imported == which.removesuffix('.*') or which.endswith('.*') and imported.startswith(which[:-1])
        for which in allowed)] == []


@pytest.mark.parametrize('name', [name for name in sorted(MODULES) if name.startswith('common.batch_service')])
def test_the_service_is_no_client_of_azure(name: str) -> None:
    assert [imported for imported in imports(name)
            if imported.partition('.')[0] in ('azure', 'msrest', 'msrestazure')] == []


def test_no_circle_of_imports() -> None:
    try:
        TopologicalSorter({name: set(imports(name, for_types=False)) for name in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(f'a circle of imports: {" <- ".join(error.args[1])}')


def test_the_rules_see_imports_of_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'other.py'
    path.write_text('import os, common.guards.run as run\n'
                    'from common import guards, loopback\n'
                    'from common.helpers import can_ask\n'
                    'from . import watch\n'
                    'from .names import recipe\n'
                    'from ..redaction import keep_secret\n'
                    'def later():\n    try:\n        import tests.leftovers\n    finally:\n        pass\n'
                    'if typing.TYPE_CHECKING:\n    from common.local_azure import start\n')
    monkeypatch.setitem(MODULES, 'common.guards.other', path)

    found = {'os', 'common.guards.run', 'common.guards', 'common.loopback', 'common.helpers', 'common.guards.watch',
             'common.guards.names', 'common.redaction', 'tests.leftovers', 'common.local_azure'}
    assert set(imports('common.guards.other')) == found
    assert set(imports('common.guards.other', for_types=False)) == found - {'common.local_azure'}
