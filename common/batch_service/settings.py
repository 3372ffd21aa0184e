"""How the service behaves where the real one is slow or in trouble; by default it is neither."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
from dataclasses import dataclass
from typing import Any


def _setting(default: Any, text: str) -> Any:
    return dataclasses.field(default=default, metadata={'help': text})


@dataclass(frozen=True)
class Settings:
    """The cloud's slowness and troubles, on demand; each field's help says what it does."""

    allocation_seconds: float = _setting(0.0, 'how long a pool resizes before its nodes are there')
    node_boot_seconds: float = _setting(0.0, 'how long a node starts, or restarts, before its start task')
    deletion_seconds: float = _setting(0.0, 'how long a deleted pool or job keeps its id')
    counts_lag_seconds: float = _setting(0.0, 'how old the task counts are that a client is told')
    core_quota: int = _setting(1_000_000, 'how many cores all nodes together may have')
    unusable_nodes: int = _setting(0, 'how many nodes of each pool turn unusable instead of ready')
    busy_share: float = _setting(0.0, 'which share of the requests, 0 to 1, is answered with 429 or 503')


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Gives a command line one option for each setting, ``--core-quota N`` for instance."""
    group = parser.add_argument_group('troubles of the cloud, to test a client with (default: none)')
    for field in dataclasses.fields(Settings):
        group.add_argument(f'--{field.name.replace("_", "-")}', type=type(field.default), default=field.default,
                           metavar='N', help=field.metadata['help'])


def settings_from(options: argparse.Namespace) -> Settings:
    """The settings that the options of such a command line stand for."""
    return Settings(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Settings)})


def arguments_for(settings: Settings) -> list[str]:
    """The arguments that give another process's command line these settings."""
    return [f'--{name.replace("_", "-")}={value}' for name, value in dataclasses.asdict(settings).items()]


async def slow(seconds: float, stop: asyncio.Event) -> bool:
    """Takes so long, or until it is stopped; says whether it was."""
    if seconds:
        waiting = asyncio.ensure_future(stop.wait())
        await asyncio.wait([waiting], timeout=seconds)
        waiting.cancel()
    return stop.is_set()
