"""Pools, nodes, jobs and tasks in SQLite, each as the JSON document that the service answers with.

A document's ``state`` is indexed, so looking for 10 tasks in one state among 10,000 costs what 10 among 10 cost.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from .errors import BatchError

Document = dict[str, Any]

_SCHEMA = '''
CREATE TABLE IF NOT EXISTS resource (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    parent TEXT NOT NULL COLLATE NOCASE,
    id TEXT NOT NULL COLLATE NOCASE,
    doc TEXT NOT NULL,
    ready INTEGER NOT NULL DEFAULT 1,
    state TEXT GENERATED ALWAYS AS (json_extract(doc, '$.state')) VIRTUAL,
    UNIQUE (kind, parent, id));
CREATE INDEX IF NOT EXISTS by_state ON resource (kind, parent, state, id);
CREATE INDEX IF NOT EXISTS queue ON resource (parent, number) WHERE kind = 'task' AND state = 'active' AND ready = 1;
'''


class Store:
    """The state of the service.

    A resource has a kind (``image``, ``pool``, ``node``, ``job``, ``task`` or ``preparation``), a parent (the pool's
    id of a node, the job's id of a task, otherwise the empty string) and an id, unique without regard to case.

    Args:
        path: The database file; made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        # With a write-ahead log, what was committed survives the end of this process, though not of the machine.
        self._connection.execute('PRAGMA journal_mode = WAL')
        self._connection.execute('PRAGMA synchronous = NORMAL')
        self._connection.executescript(_SCHEMA)
        self._depth = 0

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes of the block, or none of them. Blocks nest; none of them may await."""
        if not self._depth:
            self._connection.execute('BEGIN IMMEDIATE')
        self._depth += 1
        try:
            yield
        except BaseException:
            self._depth -= 1
            if not self._depth:
                self._connection.execute('ROLLBACK')
            raise
        self._depth -= 1
        if not self._depth:
            self._connection.execute('COMMIT')

    def find(self, kind: str, parent: str, id: str) -> Document | None:
        """The document of a resource, None if there is no such resource."""
        row = self._connection.execute('SELECT doc FROM resource WHERE kind = ? AND parent = ? AND id = ?',
                                       (kind, parent, id)).fetchone()
        return json.loads(row[0]) if row else None

    def get(self, kind: str, parent: str, id: str) -> Document:
        """The document of a resource that must be there.

        Raises:
            BatchError: PoolNotFound, NodeNotFound, JobNotFound or TaskNotFound.
        """
        document = self.find(kind, parent, id)
        if document is None:
            raise BatchError(f'{kind.title()}NotFound')
        return document

    def add(self, kind: str, parent: str, id: str, document: Document, *, ready: bool = True) -> bool:
        """Keeps a new resource; False if its id is taken."""
        return self._connection.execute(
            'INSERT INTO resource (kind, parent, id, doc, ready) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING',
            (kind, parent, id, _text(document), ready)).rowcount == 1

    def save(self, kind: str, parent: str, document: Document) -> None:
        """Replaces the document of a resource, which names its own id."""
        self._connection.execute('UPDATE resource SET doc = ? WHERE kind = ? AND parent = ? AND id = ?',
                                 (_text(document), kind, parent, document['id']))

    def set_ready(self, job_id: str, task_id: str, ready: bool) -> None:
        """Says whether a task, once active, may be scheduled; one that waits for other tasks may not."""
        self._connection.execute("UPDATE resource SET ready = ? WHERE kind = 'task' AND parent = ? AND id = ?",
                                 (ready, job_id, task_id))

    def remove(self, kind: str, parent: str, id: str | None = None) -> None:
        """Forgets one resource, or with no id all of its parent's."""
        query = 'DELETE FROM resource WHERE kind = ? AND parent = ?'
        if id is None:
            self._connection.execute(query, (kind, parent))
        else:
            self._connection.execute(query + ' AND id = ?', (kind, parent, id))

    def all(self, kind: str, parent: str | None = None, *states: str) -> list[Document]:
        """The documents of one kind, of one parent or of all, in one of the states or in any, oldest first."""
        query, parameters = 'SELECT doc FROM resource WHERE kind = ?', [kind]
        if parent is not None:
            query, parameters = query + ' AND parent = ?', [*parameters, parent]
        if states:
            query, parameters = query + f' AND state IN ({", ".join("?" * len(states))})', [*parameters, *states]
        return [json.loads(doc) for doc, in self._connection.execute(query + ' ORDER BY number', parameters)]

    def page(self, kind: str, parent: str, after: str, most: int,
             condition: tuple[str, list[Any]] | None = None) -> list[Document]:
        """At most so many documents in the order of their ids, from the one behind ``after``."""
        where, parameters = condition or ('1', [])
        used = len(parameters)
        rows = self._connection.execute(
            f'SELECT doc FROM resource WHERE kind = ?{used + 1} AND parent = ?{used + 2} AND id > ?{used + 3} '
            f'AND {where} ORDER BY id LIMIT ?{used + 4}', [*parameters, kind, parent, after, most])
        return [json.loads(doc) for doc, in rows]

    def queue(self, job_id: str, most: int, slots: int) -> list[Document]:
        """The next tasks of a job that may be scheduled and fit so many slots, in the order of their adding."""
        rows = self._connection.execute(
            "SELECT doc FROM resource WHERE kind = 'task' AND state = 'active' AND ready = 1 AND parent = ? "
            "AND json_extract(doc, '$.requiredSlots') <= ? ORDER BY number LIMIT ?", (job_id, slots, most))
        return [json.loads(doc) for doc, in rows]

    def waiting(self, job_id: str) -> list[Document]:
        """The active tasks of a job that wait for other tasks."""
        rows = self._connection.execute(
            "SELECT doc FROM resource WHERE kind = 'task' AND state = 'active' AND ready = 0 AND parent = ?", (job_id,))
        return [json.loads(doc) for doc, in rows]

    def tasks_in_range(self, job_id: str, start: int, end: int) -> list[Document]:
        """The tasks of a job whose ids, read as whole numbers, lie in a range."""
        rows = self._connection.execute(
            "SELECT doc FROM resource WHERE kind = 'task' AND parent = ? AND id NOT GLOB '*[^0-9]*' "
            'AND CAST(id AS INTEGER) BETWEEN ? AND ?', (job_id, start, end))
        return [json.loads(doc) for doc, in rows]

    def any(self, kind: str, parent: str, *states: str) -> bool:
        """Whether a parent has a resource in one of the states."""
        return self._connection.execute(
            f'SELECT 1 FROM resource WHERE kind = ? AND parent = ? AND state IN ({", ".join("?" * len(states))}) '
            'LIMIT 1', (kind, parent, *states)).fetchone() is not None

    def count_tasks(self, job_id: str, until: str) -> list[tuple[str, str, int, int]]:
        """For each state and result of a job's tasks at a moment: how many tasks, and how many slots they need."""
        return self._connection.execute(
            "SELECT CASE WHEN rtrim(json_extract(doc, '$.stateTransitionTime'), 'Z') <= rtrim(?, 'Z') THEN state "
            "ELSE json_extract(doc, '$.previousState') END AS state_then, "
            "json_extract(doc, '$.executionInfo.result') AS result, count(*), "
            "sum(json_extract(doc, '$.requiredSlots')) FROM resource WHERE kind = 'task' AND parent = ? "
            'GROUP BY state_then, result HAVING state_then IS NOT NULL', (until, job_id)).fetchall()


def _text(document: Document) -> str:
    return json.dumps(document, separators=(',', ':'))
