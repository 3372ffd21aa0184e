"""What a client knows of its jobs: what it asked for, what was answered, and so what may have become of them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Task:
    """What may have become of a task: ``run``, ``ended``, ``deleted`` or ``absent``."""

    kind: str
    fates: set[str]
    begins: int | None = None


@dataclass
class Job:
    """What may have become of a job, by what was asked and answered.

    Attributes:
        generation: Which job of this id it is: ids of jobs that are gone are used again.
        over: When it was answered that there is a newer one of this id.
    """

    id: str
    generation: int
    pool: str
    prepared: bool
    fates: set[str] = field(default_factory=lambda: {'active', 'deleted'})
    priorities: set[int] = field(default_factory=lambda: {0})
    tasks: dict[str, Task] = field(default_factory=dict)
    ends_tasks: bool = False
    changed: bool = True
    over: float | None = None

    @property
    def name(self) -> str:
        """By which its tasks log, and name their outputs."""
        return f'{self.id}.{self.generation}'

    @property
    def is_gone(self) -> bool:
        return self.fates == {'deleted'}

    @property
    def may_change(self) -> bool:
        """Whether it was asked for anything, or one of its tasks was not yet completed, when it was last looked at."""
        return self.changed or any(task.begins is None and task.fates != {'deleted'} for task in self.tasks.values())
