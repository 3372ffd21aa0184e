"""How the service behaves where the real one is slow or in trouble; by default it is neither."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """The cloud's slowness and troubles, on demand.

    Attributes:
        node_boot_seconds: How long a node starts before its start task.
        deletion_seconds: How long a deleted pool or job keeps its id.
    """

    node_boot_seconds: float = 0.0
    deletion_seconds: float = 0.0
