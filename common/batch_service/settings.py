"""What the service is told when it is started: the troubles of the cloud, by default none; who may see its page."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PAGE_PATH = '/page'
"""Where the page to watch is; its address is ``URL/page/?token=TOKEN``."""

PAGE_TOKEN_VARIABLE = 'BATCH_PAGE_TOKEN'
"""The environment variable with the token; without it nobody sees the page."""

_DAY = 24 * 60 * 60


def _setting(default: Any, most: int, text: str) -> Any:
    return dataclasses.field(default=default, metadata={'most': most, 'help': text})


@dataclass(frozen=True)
class Settings:
    """The cloud's slowness and troubles, on demand; each field's help says what it does.

    Raises ValueError for what is not from 0 to the most that the field bears.
    """

    allocation_seconds: float = _setting(0.0, _DAY, 'how long a pool resizes before its nodes are there')
    node_boot_seconds: float = _setting(0.0, _DAY, 'how long a node starts, or restarts, before its start task')
    deletion_seconds: float = _setting(0.0, _DAY, 'how long a deleted pool or job keeps its id')
    counts_lag_seconds: float = _setting(0.0, _DAY, 'how old the task counts are that a client is told')
    core_quota: int = _setting(1_000_000, 1_000_000, 'how many cores all nodes together may have')
    unusable_nodes: int = _setting(0, 1_000_000, 'how many nodes of each pool turn unusable instead of ready')
    busy_share: float = _setting(0.0, 1, 'which share of the requests is answered with 429 or 503')

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if refusal := _refusal(type(field.default), field.metadata['most'], getattr(self, field.name)):
                raise ValueError(f'{field.name}: {refusal}')


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Gives a command line one option for each setting, ``--core-quota N`` for instance."""
    group = parser.add_argument_group('troubles of the cloud, to test a client with (default: none)')
    for field in dataclasses.fields(Settings):
        most = field.metadata['most']
        group.add_argument(f'--{field.name.replace("_", "-")}', type=_number(type(field.default), most),
                           default=field.default, metavar='N', help=f'{field.metadata["help"]}: 0 to {most}')


def settings_from(options: argparse.Namespace) -> Settings:
    """The settings that the options of such a command line stand for."""
    return Settings(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Settings)})


def arguments_for(settings: Settings) -> list[str]:
    """The arguments that give another process's command line these settings."""
    return [f'--{name.replace("_", "-")}={value}' for name, value in dataclasses.asdict(settings).items()]


def port(text: str) -> int:
    """Reads the value of an option that is a port, where 0 stands for a free one."""
    return _number(int, 65_535)(text)


def _number(kind: type, most: int) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = text
        if refusal := _refusal(kind, most, value):
            raise argparse.ArgumentTypeError(refusal)
        return value
    return read


def _refusal(kind: type, most: int, value: Any) -> str | None:
    # No comparison holds for what is not a number at all, "nan".
    if isinstance(value, (kind, int)) and 0 <= value <= most:
        return None
    return f'{value!r} is not a {"whole " if kind is int else ""}number from 0 to {most}'
