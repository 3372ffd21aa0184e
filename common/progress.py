"""What the reader sees while waiting: at a terminal a progress bar, otherwise a dot per look."""
from __future__ import annotations

import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable

import azure.batch.models as batchmodels
from tqdm import tqdm


def show_progress(count_tasks: Callable[[], int]) -> Dots | Bar:
    """Returns the display that fits standard output, a context manager. count_tasks counts all tasks of the job."""
    at_a_terminal = sys.stdout.isatty() and os.environ.get('TERM') != 'dumb'
    return Bar(count_tasks) if at_a_terminal else Dots()


class Dots:
    """A dot per look, in the line that has been begun."""

    tasks_to_show = 1  # whether there is any is all that a dot can tell

    def __enter__(self) -> Dots:
        return self

    def __exit__(self, *_: object) -> None:
        print()

    def look(self) -> None:
        print('.', end='', flush=True)

    def show(self, incomplete: list[batchmodels.CloudTask], nodes: Counter[str]) -> None:
        """Shows nothing: how far the tasks are would take more than a dot."""

    def note(self, text: str) -> None:
        print(f'\n{text}', flush=True)


class _Tqdm(tqdm):
    # Its threads and locks are for bars in several processes; this one is alone.
    monitor_interval = 0


_Tqdm.set_lock(threading.RLock())


class Bar:
    """A progress bar below the line that has been begun; gone in the end."""

    tasks_to_show = None  # all of them

    def __init__(self, count_tasks: Callable[[], int]) -> None:
        self._count_tasks = count_tasks
        self._total: int | None = None
        self._tqdm: tqdm | None = None

    def __enter__(self) -> Bar:
        print(flush=True)
        self._tqdm = _Tqdm(desc='looking at the tasks', leave=False, file=sys.stdout, ncols=_columns(), nrows=2,
                           bar_format='  |{bar:10}| {elapsed} {desc}')
        return self

    def __exit__(self, *_: object) -> None:
        self._tqdm.close()

    def look(self) -> None:
        self._tqdm.ncols = _columns()
        self._tqdm.refresh()

    def show(self, incomplete: list[batchmodels.CloudTask], nodes: Counter[str]) -> None:
        if self._total is None:
            self._total = self._tqdm.total = self._count_tasks()
        states = Counter(str(getattr(task.state, 'value', task.state)) for task in incomplete)
        self._tqdm.n = completed = max(0, self._total - len(incomplete))
        active, running = states.pop('active', 0), states.pop('running', 0)
        others = ''.join(f'{count} {state}, ' for state, count in states.items())
        self._tqdm.set_description_str(
            f'nodes: {by_state(nodes)}; tasks: {active} active, {others}{running} running, {completed} completed')

    def note(self, text: str) -> None:
        self._tqdm.write(text, file=sys.stdout)


def _columns() -> int:
    # Some terminals say that they have none, which tqdm would believe.
    return shutil.get_terminal_size().columns - 1


def by_state(states: Counter[str]) -> str:
    """Returns '2 idle, 1 starting', the most frequent state first."""
    return ', '.join(f'{count} {state}' for state, count in states.most_common()) or 'none'
