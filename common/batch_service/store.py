"""Pools, nodes, jobs and tasks in SQLite, each as the JSON document that the service answers with.

Names that begin with an underscore are the service's own, and never leave it: what a client has asked for, and when
the engine next wants to look at the document. What lists, counts and placing need is indexed or counted along, so that
it costs what it returns.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

from .errors import BatchError

Document = dict[str, Any]

_APPLICATION = 0x42617463
_VERSION = 5
_SCHEMA = '''
CREATE TABLE resource (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    parent TEXT NOT NULL COLLATE NOCASE,
    id TEXT NOT NULL COLLATE NOCASE,
    doc TEXT NOT NULL,
    state TEXT,
    due REAL,
    satisfies INTEGER,
    sort TEXT NOT NULL,
    slots INTEGER NOT NULL,
    waits_for TEXT,
    whole INTEGER GENERATED ALWAYS AS (CASE WHEN id NOT GLOB '*[^0-9]*' THEN CAST(id AS INTEGER) END) VIRTUAL,
    UNIQUE (kind, parent, id));
CREATE INDEX by_state ON resource (kind, parent, state, id);
CREATE INDEX by_due ON resource (due) WHERE due IS NOT NULL;
CREATE INDEX queue ON resource (parent, slots, number)
    WHERE kind = 'task' AND state = 'active' AND waits_for IS NULL;
CREATE INDEX waiting ON resource (parent, waits_for) WHERE waits_for IS NOT NULL;
CREATE INDEX by_number ON resource (parent, whole) WHERE kind = 'task' AND whole IS NOT NULL;
CREATE INDEX unsatisfying ON resource (parent, whole) WHERE kind = 'task' AND whole IS NOT NULL AND satisfies IS NULL;
CREATE TABLE tally (
    kind TEXT NOT NULL,
    parent TEXT NOT NULL COLLATE NOCASE,
    state TEXT NOT NULL,
    sort TEXT NOT NULL,
    number INTEGER NOT NULL,
    slots INTEGER NOT NULL,
    PRIMARY KEY (kind, parent, state, sort)) WITHOUT ROWID;
'''
_COUNT = '''
CREATE TRIGGER {name} AFTER {event} ON resource WHEN {row}.kind IN ('task', 'node') BEGIN
    INSERT INTO tally VALUES ({row}.kind, {row}.parent, {row}.state, {row}.sort, {by}, {by} * {row}.slots)
    ON CONFLICT DO UPDATE SET number = number + excluded.number, slots = slots + excluded.slots;
END;
'''
# What a document has in columns of its own, too: reading it there takes SQLite much less than reading JSON.
_COLUMNS = 'state', 'due', 'satisfies', 'sort', 'slots'


class StoreError(Exception):
    """The database cannot be used; the text says why, and what to do."""


class Store:
    """The state of the service.

    A resource has a kind (``image``, ``pool``, ``node``, ``job``, ``task`` or ``preparation``), a parent (the pool's
    id of a node, the job's id of a task or a preparation, otherwise the empty string) and an id, unique without regard
    to case.

    Args:
        path: The database file; made if it is missing.
        changed: Called after every transaction that has changed something.

    Raises:
        StoreError: The file is no database of this service, or of another version of it.
    """

    def __init__(self, path: Path, changed: Callable[[], None] = lambda: None) -> None:
        self._changed = changed
        self._depth = 0
        try:
            # Nobody but its owner reads it, whatever the umask is. SQLite would not say why it cannot make its files.
            for name in (path, f'{path}-wal', f'{path}-shm'):
                os.close(os.open(name, os.O_RDWR | os.O_CREAT, 0o600))
            self._connection = sqlite3.connect(path, isolation_level=None)
            # With a write-ahead log, what was committed survives the end of this process, though not of the machine.
            self._connection.execute('PRAGMA journal_mode = WAL')
            self._connection.execute('PRAGMA synchronous = NORMAL')
            self._prepare(path)
        except OSError as error:
            raise StoreError(f'the database {path} cannot be used: {error.strerror}.') from error
        except sqlite3.DatabaseError as error:
            self._connection.close()
            # The others are not the file's fault: a full disk, for instance.
            advice = '' if isinstance(error, sqlite3.OperationalError) else ' To begin anew, delete the workspace.'
            raise StoreError(f'the database {path} cannot be used: {error}.{advice}') from error
        except StoreError:
            self._connection.close()
            raise

    def _prepare(self, path: Path) -> None:
        [application], [version] = (self._connection.execute(f'PRAGMA {name}').fetchone()
                                    for name in ('application_id', 'user_version'))
        if not application and not version and not self._connection.execute('SELECT 1 FROM sqlite_master').fetchone():
            with self.transaction():
                for statement in _SCHEMA.split(';\n'):
                    self._connection.execute(statement)
                for name, event, row, by in (('count_new', 'INSERT', 'new', 1), ('count_old', 'DELETE', 'old', -1),
                                             ('recount_old', 'UPDATE OF state', 'old', -1),
                                             ('recount_new', 'UPDATE OF state', 'new', 1)):
                    self._connection.execute(_COUNT.format(name=name, event=event, row=row, by=by))
                self._connection.execute(f'PRAGMA application_id = {_APPLICATION}')
                self._connection.execute(f'PRAGMA user_version = {_VERSION}')
        elif (application, version) != (_APPLICATION, _VERSION):
            what = 'is of another version of this service' if application in (0, _APPLICATION) else 'is something else'
            raise StoreError(f'the database {path} {what}: use another workspace, or delete this one to begin anew.')
        # A damaged page would be met at any time later.
        [found], = self._connection.execute('PRAGMA quick_check(1)')
        if found != 'ok':
            raise sqlite3.DatabaseError('it is damaged')

    def close(self) -> None:
        self._connection.close()

    @property
    def changes(self) -> int:
        """A number that is another one after every change."""
        return self._connection.total_changes

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes of the block, or none of them. Blocks nest; none of them may await."""
        if self._depth:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
            return
        before = self._connection.total_changes
        self._connection.execute('BEGIN IMMEDIATE')
        self._depth = 1
        try:
            yield
            self._connection.execute('COMMIT')
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute('ROLLBACK')
            raise
        finally:
            self._depth = 0
        if self._connection.total_changes != before:
            self._changed()

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

    def add(self, kind: str, parent: str, id: str, document: Document, *, waits_for: str | None = None) -> bool:
        """Keeps a new resource; False if its id is taken. A task that waits for another: see set_waits_for."""
        return self._connection.execute(
            f'INSERT INTO resource (kind, parent, id, waits_for, doc, {", ".join(_COLUMNS)}) '
            f'VALUES (?, ?, ?, ?, ?{", ?" * len(_COLUMNS)}) ON CONFLICT DO NOTHING',
            (kind, parent, id, waits_for and _key(waits_for), _text(document), *_columns(document))).rowcount == 1

    def save(self, kind: str, parent: str, document: Document) -> None:
        """Replaces the document of a resource, which names its own id."""
        self._connection.execute(f'UPDATE resource SET doc = ?, {" = ?, ".join(_COLUMNS)} = ? '
                                 'WHERE kind = ? AND parent = ? AND id = ?',
                                 (_text(document), *_columns(document), kind, parent, document['id']))

    def set_waits_for(self, job_id: str, task_id: str, waits_for: str | None) -> None:
        """Says which other task a task waits for; None if it may be scheduled."""
        self._connection.execute("UPDATE resource SET waits_for = ? WHERE kind = 'task' AND parent = ? AND id = ?",
                                 (waits_for and _key(waits_for), job_id, task_id))

    def remove(self, kind: str, parent: str, id: str) -> None:
        """Forgets one resource."""
        self._connection.execute('DELETE FROM resource WHERE kind = ? AND parent = ? AND id = ?', (kind, parent, id))

    def remove_some(self, kind: str, parent: str, most: int) -> bool:
        """Forgets at most so many resources of a parent; returns whether that were all."""
        return self._connection.execute(
            'DELETE FROM resource WHERE number IN (SELECT number FROM resource WHERE kind = ? AND parent = ? LIMIT ?)',
            (kind, parent, most)).rowcount < most

    def due(self, moment: float, most: int) -> list[tuple[str, str, str]]:
        """Kind, parent and id of what the engine wants to look at by a moment, what is due longest first."""
        return self._connection.execute(
            'SELECT kind, parent, id FROM resource WHERE due <= ? ORDER BY due LIMIT ?', (moment, most)).fetchall()

    def next_due(self) -> float | None:
        """When the engine next wants to look at something."""
        return self._connection.execute('SELECT min(due) FROM resource WHERE due IS NOT NULL').fetchone()[0]

    def all(self, kind: str, parent: str | None = None, *states: str) -> list[Document]:
        """The documents of one kind, of one parent or of all, in one of the states or in any, oldest first."""
        # Not as a parameter: SQLite would plan the query anew each time, for the sake of the indexes of tasks alone.
        query, parameters = f"SELECT doc FROM resource WHERE kind = '{kind}'", []
        if parent is not None:
            query, parameters = query + ' AND parent = ?', [*parameters, parent]
        if states:
            query, parameters = query + f' AND state IN ({", ".join("?" * len(states))})', [*parameters, *states]
        return [json.loads(doc) for doc, in self._connection.execute(query + ' ORDER BY number', parameters)]

    def ids(self, kind: str, parent: str) -> set[str]:
        """The ids of all resources of one kind and parent."""
        return {id for id, in self._connection.execute(
            'SELECT id FROM resource WHERE kind = ? AND parent = ?', (kind, parent))}

    def parents(self, kind: str, id: str) -> list[str]:
        """The parents that have a resource of this id."""
        return [parent for parent, in self._connection.execute(
            'SELECT parent FROM resource WHERE kind = ? AND id = ?', (kind, id)).fetchall()]

    def page(self, kind: str, parent: str, after: str, most: int,
             condition: tuple[str, list[Any]] | None = None) -> list[Document]:
        """At most so many documents in the order of their ids, from the one behind ``after``."""
        where, parameters = condition or ('1', [])
        used = len(parameters)
        query = (f'SELECT id, doc FROM resource WHERE kind = ?{used + 1} AND parent = ?{used + 2} AND id > ?{used + 3} '
                 f'AND {where}')
        limit = f'ORDER BY id LIMIT ?{used + 4}'
        parameters = [*parameters, kind, parent, after, most]
        states = self._states_let_through(kind, parent, condition)
        if states == []:
            return []
        if states:
            # Each by its index: there may be many documents in the others.
            query = ' UNION ALL '.join(f'SELECT * FROM ({query} AND state = ?{used + 5 + number} {limit})'
                                       for number in range(len(states)))
            parameters += states
        return [json.loads(doc) for _, doc in self._connection.execute(f'{query} {limit}', parameters)]

    def _states_let_through(self, kind: str, parent: str, condition: tuple[str, list[Any]] | None) -> list[str] | None:
        """The states whose documents may fulfil a condition; None if all may, or if that is not known."""
        if condition is None or kind not in ('task', 'node'):
            return None
        states = {state for state, *_ in self.counts(kind, parent)}
        where, parameters = condition
        # Whatever is not known is NULL: what is false then is false of each document in that state.
        passing = [state for state in states if self._connection.execute(
            f'SELECT {where} FROM (SELECT ?{len(parameters) + 1} AS state, NULL AS id, NULL AS doc)',
            [*parameters, state]).fetchone() != (0,)]
        return None if len(passing) == len(states) else passing

    def queue(self, job_id: str, most: int, slots: int) -> list[Document]:
        """The next tasks of a job that may be scheduled and fit so many slots, in the order of their adding."""
        queue = "FROM resource WHERE kind = 'task' AND state = 'active' AND waits_for IS NULL AND parent = ?"
        rows: list[tuple[int, str]] = []
        width, = self._connection.execute(f'SELECT min(slots) {queue}', (job_id,)).fetchone()
        # Each width by itself: of those that are too wide there may be very many.
        while width is not None and width <= slots:
            rows += self._connection.execute(f'SELECT number, doc {queue} AND slots = ? ORDER BY number LIMIT ?',
                                             (job_id, width, most))
            width, = self._connection.execute(f'SELECT min(slots) {queue} AND slots > ?', (job_id, width)).fetchone()
        return [json.loads(doc) for _, doc in sorted(rows)[:most]]

    def waiting(self, job_id: str, waits_for: str) -> list[Document]:
        """The tasks of a job that wait for one of its tasks."""
        rows = self._connection.execute(
            "SELECT doc FROM resource WHERE kind = 'task' AND parent = ? AND waits_for = ?", (job_id, _key(waits_for)))
        return [json.loads(doc) for doc, in rows]

    def missing_in_range(self, job_id: str, start: int, end: int) -> int | None:
        """The highest of a range of whole numbers that is no task's id, or one's without ``_satisfies``; None if none.

        Two ids may be the same number, such as 7 and 007: then both count.
        """
        tasks = "FROM resource WHERE kind = 'task' AND parent = ? AND whole BETWEEN ? AND ? AND whole IS NOT NULL"
        unsatisfying, = self._connection.execute(
            f'SELECT max(whole) {tasks} AND satisfies IS NULL', (job_id, start, end)).fetchone()
        if unsatisfying is not None:
            return unsatisfying
        missing = end
        for number, in self._connection.execute(f'SELECT DISTINCT whole {tasks} ORDER BY whole DESC',
                                                (job_id, start, end)):
            if number < missing:
                break
            missing = number - 1
        return missing if missing >= start else None

    def counts(self, kind: str, parent: str) -> list[tuple[str, str, int, int]]:
        """For each state, and each result of a task or 1 of a dedicated node: how many, and of how many slots."""
        return self._connection.execute(
            'SELECT state, sort, number, slots FROM tally WHERE kind = ? AND parent = ? AND number > 0',
            (kind, parent)).fetchall()

    def count_tasks_then(self, job_id: str, then: str) -> list[tuple[str, str, int, int]]:
        """Like counts() of a job's tasks, as they were at a moment of the past; reads them all."""
        return self._connection.execute(
            "SELECT CASE WHEN rtrim(json_extract(doc, '$.stateTransitionTime'), 'Z') <= rtrim(?, 'Z') THEN state "
            "ELSE json_extract(doc, '$.previousState') END AS state_then, "
            "sort, count(*), sum(slots) FROM resource WHERE kind = 'task' AND parent = ? "
            'GROUP BY state_then, sort HAVING state_then IS NOT NULL', (then, job_id)).fetchall()


def _key(task_id: str) -> str:
    """By which a task is waited for: ids are the same without regard to case, and in ranges also to leading zeros."""
    return str(int(task_id)) if task_id.isascii() and task_id.isdigit() else task_id.lower()


def _columns(document: Document) -> tuple[Any, ...]:
    """What _COLUMNS are of a document: tasks are sorted by their result, nodes by whether they are dedicated."""
    sort = document.get('executionInfo', {}).get('result', document.get('isDedicated', ''))
    return (document.get('state'), document.get('_due'), document.get('_satisfies'), sort,
            document.get('requiredSlots', 1))


_text = json.JSONEncoder(separators=(',', ':')).encode
