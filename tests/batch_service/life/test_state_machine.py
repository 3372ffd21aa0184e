"""Any requests in any order, any ends, a clock that goes on, and a service that is killed: what holds all the time."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from common.batch_service.errors import BatchError
from common.batch_service.life import jobs, nodes, pools, tasks
from common.batch_service.settings import Settings
from common.batch_service.values import INFINITE

from .bench import (FAILURE, NOT_STARTED, NOT_UPLOADED, SUCCESS, Bench, Document, job_document, pool_document,
                    task_document)

POOLS, JOBS, TASKS = ('p', 'q'), ('j', 'k'), ('1', '2', '3', '4')
OUTCOMES = (SUCCESS, FAILURE, NOT_STARTED, NOT_UPLOADED)
RUNS = ('requeue', 'terminate', 'taskcompletion')
ON_NODE = ('preparing', 'running')

turns = st.sampled_from([0, 1, 2, 3, 5, 2_000])
exit_options = st.fixed_dictionaries({}, optional={
    'jobAction': st.sampled_from(['none', 'disable', 'terminate']),
    'dependencyAction': st.sampled_from(['satisfy', 'block'])})


class Service(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.bench: Bench | None = None

    @initialize(delays=st.sampled_from([0, 5]), unusable=st.integers(0, 1), quota=st.sampled_from([5, 1_000_000]))
    def begin(self, delays: int, unusable: int, quota: int) -> None:
        self.bench = Bench(self.directory, Settings(
            allocation_seconds=delays, node_boot_seconds=delays, deletion_seconds=delays, unusable_nodes=unusable,
            core_quota=quota))
        self.ended_for_good: dict[tuple[str, str], str] = {}
        self.add_pool('p', 2, 2, None, 0)
        self.add_job('j', 'p', False, False, {}, 0)

    @contextmanager
    def request(self, turns: int) -> Iterator[None]:
        """A request that may be refused, after which the engine comes to run for some turns."""
        try:
            with self.store.transaction():
                yield
        except (BatchError, sqlite3.OperationalError):
            pass
        self.bench.turn(turns)

    @property
    def store(self) -> Any:
        return self.bench.store

    # Pools and nodes

    @rule(id=st.sampled_from(POOLS), size=st.integers(0, 2), slots=st.integers(1, 3),
          start=st.sampled_from([None, True, False]), turns=turns)
    def add_pool(self, id: str, size: int, slots: int, start: bool | None, turns: int) -> None:
        pool = pool_document(id, targetDedicatedNodes=size, taskSlotsPerNode=slots, **(
            {} if start is None else {'startTask': {'commandLine': 'x', 'waitForSuccess': start,
                                                    'maxTaskRetryCount': 1}}))
        with self.request(turns):
            pools.add(self.store, pool, self.bench.moment + self.bench.settings.allocation_seconds)

    @rule(id=st.sampled_from(POOLS), dedicated=st.integers(0, 2), low=st.integers(0, 1), runs=st.sampled_from(RUNS),
          turns=turns)
    def resize(self, id: str, dedicated: int, low: int, runs: str, turns: int) -> None:
        with self.request(turns):
            pools.resize(self.store, self.store.get('pool', '', id), {
                'targetDedicatedNodes': dedicated, 'targetLowPriorityNodes': low, 'resizeTimeout': 'PT15M',
                'nodeDeallocationOption': runs}, self.bench.moment + self.bench.settings.allocation_seconds)

    @rule(id=st.sampled_from(POOLS), turns=turns)
    def stop_resize(self, id: str, turns: int) -> None:
        with self.request(turns):
            pools.stop_resize(self.store, self.store.get('pool', '', id))

    @rule(id=st.sampled_from(POOLS), turns=turns)
    def delete_pool(self, id: str, turns: int) -> None:
        with self.request(turns):
            pools.delete(self.store, self.store.get('pool', '', id))

    @rule(id=st.sampled_from(POOLS), number=st.integers(0, 2), runs=st.sampled_from(RUNS), turns=turns)
    def remove_node(self, id: str, number: int, runs: str, turns: int) -> None:
        for node in self.store.all('node', id)[number:number + 1]:
            with self.request(turns):
                pools.remove_nodes(self.store, self.store.get('pool', '', id), [node['id']], runs, self.bench.moment)

    @rule(id=st.sampled_from(POOLS), number=st.integers(0, 2), runs=st.sampled_from(RUNS), turns=turns,
          what=st.sampled_from(['rebooting', 'reimaging', 'disable', 'enable']))
    def ask_node(self, id: str, number: int, what: str, runs: str, turns: int) -> None:
        for node in self.store.all('node', id)[number:number + 1]:
            with self.request(turns):
                if what == 'disable':
                    nodes.disable_scheduling(self.store, node, runs)
                elif what == 'enable':
                    nodes.enable_scheduling(self.store, node)
                else:
                    nodes.restart(self.store, node, what, runs)

    # Jobs and tasks

    @rule(id=st.sampled_from(JOBS), pool=st.sampled_from(POOLS), prepares=st.booleans(), releases=st.booleans(),
          turns=turns, more=st.fixed_dictionaries({}, optional={
              'onAllTasksComplete': st.just('terminatejob'),
              'onTaskFailure': st.just('performexitoptionsjobaction'),
              'constraints': st.just({'maxWallClockTime': 'PT1H'}),
              'maxParallelTasks': st.just(1), 'usesTaskDependencies': st.just(True)}))
    def add_job(self, id: str, pool: str, prepares: bool, releases: bool, more: Document, turns: int) -> None:
        job = job_document(id, pool, **more)
        if prepares:
            job |= job_document(jobPreparationTask={'commandLine': 'x', 'constraints': {'maxTaskRetryCount': 1}},
                                **({'jobReleaseTask': {'commandLine': 'x'}} if releases else {})) | job
        with self.request(turns):
            jobs.add(self.store, job)

    @rule(id=st.sampled_from(JOBS), how=st.sampled_from(['requeue', 'terminate', 'wait']), turns=turns)
    def disable_job(self, id: str, how: str, turns: int) -> None:
        with self.request(turns):
            jobs.disable(self.store, self.store.get('job', '', id), how)

    @rule(id=st.sampled_from(JOBS), what=st.sampled_from(['enable', 'terminate', 'delete', 'complete']), turns=turns)
    def ask_job(self, id: str, what: str, turns: int) -> None:
        with self.request(turns):
            job = self.store.get('job', '', id)
            if what == 'enable':
                jobs.enable(self.store, job)
            elif what == 'complete':
                jobs.update(self.store, job, {'onAllTasksComplete': 'terminatejob'})
            elif what == 'terminate':
                jobs.terminate(self.store, job, 'UserTerminate')
            else:
                jobs.delete(self.store, job)

    @rule(job_id=st.sampled_from(JOBS), id=st.sampled_from(TASKS), slots=st.integers(1, 2), retries=st.integers(0, 1),
          retention=st.sampled_from(['PT1M', 'P7D']), turns=turns,
          more=st.fixed_dictionaries({}, optional={
              'dependsOn': st.sampled_from([{'taskIds': ['1']}, {'taskIdRanges': [{'start': 1, 'end': 3}]}]),
              'exitConditions': st.fixed_dictionaries({}, optional={
                  'default': exit_options, 'preProcessingError': exit_options, 'fileUploadError': exit_options})}))
    def add_task(self, job_id: str, id: str, slots: int, retries: int, retention: str, more: Document,
                 turns: int) -> None:
        task = task_document(id, requiredSlots=slots, constraints={
            'maxTaskRetryCount': retries, 'retentionTime': retention}, **more)
        with self.request(turns):
            job = self.store.get('job', '', job_id)
            jobs.refuse_unless_open(job)
            tasks.add(self.store, job, task)

    @rule(job_id=st.sampled_from(JOBS), id=st.sampled_from(TASKS), turns=turns,
          what=st.sampled_from(['terminate', 'delete', 'reactivate', 'update']))
    def ask_task(self, job_id: str, id: str, what: str, turns: int) -> None:
        with self.request(turns):
            task = self.store.get('task', job_id, id)
            if what == 'terminate':
                tasks.terminate(self.store, job_id, task)
            elif what == 'delete':
                tasks.end(self.store, job_id, task, 'forget')
            elif what == 'reactivate':
                tasks.reactivate(self.store, job_id, task)
                self.ended_for_good.pop((job_id, id), None)
            else:
                tasks.update(self.store, job_id, task, {'maxWallClockTime': INFINITE, 'retentionTime': 'PT1M'})
            if what in ('terminate', 'delete') and not self.store.full:
                self.ended_for_good[job_id, id] = task['creationTime']

    # Events

    @rule(turns=turns)
    def turn(self, turns: int) -> None:
        self.bench.turn(turns)

    @rule(number=st.integers(0, 20), outcome=st.sampled_from(OUTCOMES), turns=turns)
    def end_command(self, number: int, outcome: Any, turns: int) -> None:
        if self.bench.running:
            self.bench.end(self.bench.running[number % len(self.bench.running)], outcome)
        self.bench.turn(turns)

    @rule(seconds=st.sampled_from([1, 5, 60, 3600]), turns=turns)
    def wait(self, seconds: int, turns: int) -> None:
        self.bench.wait(seconds)
        self.bench.turn(turns)

    @rule(turns=turns)
    def kill_and_start(self, turns: int) -> None:
        self.bench.kill()
        self.bench.start()
        self.bench.turn(turns)

    @rule(transactions=st.integers(1, 3), turns=turns)
    def fill_disk(self, transactions: int, turns: int) -> None:
        self.store.full = transactions
        self.bench.turn(turns)

    @rule()
    def come_to_rest(self) -> None:
        """When all commands have ended, and every delay is over, nothing is left to do."""
        self.store.full = 0
        for _ in range(5):
            self.bench.end_all()
            self.bench.wait(10)
        self.bench.end_all()
        self.check_rest()

    # What holds

    @invariant()
    def counts_are_those_of_the_documents(self) -> None:
        for kind, parents in (('node', POOLS), ('task', JOBS)):
            for parent in parents:
                counted: Counter[tuple[str, str]] = Counter()
                slots: Counter[tuple[str, str]] = Counter()
                for document in self.store.all(kind, parent):
                    sort = str(int(document['isDedicated'])) if kind == 'node' else (
                        document['executionInfo'].get('result', ''))
                    counted[document['state'], sort] += 1
                    slots[document['state'], sort] += document.get('requiredSlots', 1)
                rows = self.store.counts(kind, parent)
                assert {(state, sort): number for state, sort, number, _ in rows} == counted
                assert {(state, sort): number for state, sort, _, number in rows} == slots

    @invariant()
    def tasks_are_where_their_nodes_say(self) -> None:
        on_node: Counter[str] = Counter()
        slots: Counter[str] = Counter()
        for job in self.store.all('job'):
            for task in self.store.all('task', job['id'], *ON_NODE):
                assert job['state'] not in ('completed', 'disabled'), f'a task is {task["state"]}: {job["state"]}'
                assert self.store.find('node', task['nodeInfo']['poolId'], task['nodeInfo']['nodeId']) is not None
                on_node[task['nodeInfo']['nodeId']] += 1
                slots[task['nodeInfo']['nodeId']] += task['requiredSlots']
        for node in self.store.all('node'):
            assert node['runningTasksCount'] == on_node[node['id']]
            assert node['runningTaskSlotsCount'] == slots[node['id']]
            assert slots[node['id']] <= self.store.get('pool', '', node['_pool'])['taskSlotsPerNode']
            assert not on_node[node['id']] or not node.get('_booting')
            assert not on_node[node['id']] or node['state'] in ('running', *nodes.ENDING_WORK)

    @invariant()
    def what_was_ended_stays_so(self) -> None:
        for (job_id, id), added in list(self.ended_for_good.items()):
            task = self.store.find('task', job_id, id)
            if task is None or task['creationTime'] != added:
                del self.ended_for_good[job_id, id]
            else:
                assert task['state'] == 'completed' or task['state'] in ON_NODE and task['_end'] in (
                    'terminate', 'forget'), f'{task["state"]}, {task.get("_end")}'

    def check_rest(self) -> None:
        store = self.store
        due = store.next_due()
        assert due is None or due > self.bench.moment
        assert len(self.workers()) == len(set(self.workers()))
        for pool in store.all('pool'):
            assert pool['state'] == 'active' and pool['allocationState'] == 'steady'
            for node in store.all('node', pool['id']):
                assert node['state'] in ('idle', 'offline', 'starttaskfailed', 'unusable'), node['state']
                assert node['id'] in self.workers() or node['state'] == 'unusable'
                assert '_end' not in node
        assert len(self.workers()) <= len(store.all('node'))
        for row in store.all('preparation'):
            for information in ('jobPreparationTaskExecutionInfo', 'jobReleaseTaskExecutionInfo'):
                assert row.get(information, {}).get('state') in (None, 'completed')
        for job in store.all('job'):
            assert job['state'] in ('active', 'disabled', 'completed'), job['state']
            for task in store.all('task', job['id']):
                assert task['state'] in ('active', 'completed')
            if job['state'] == 'active':
                for node in store.all('node', job['poolInfo']['poolId'], 'idle'):
                    slots = store.get('pool', '', node['_pool'])['taskSlotsPerNode']
                    row = store.find('preparation', job['id'], node['id'])
                    assert jobs.preparation_state(job, row) == 'failed' or not store.queue(job['id'], 1, slots), (
                        'A task waits beside an idle node')
        changes = store._connection.total_changes
        self.bench.engine.tell()
        self.bench.settle()
        assert store._connection.total_changes == changes, 'The engine writes though there is nothing to do'

    def workers(self) -> list[str]:
        return [worker.node_id for worker in self.bench.workers.all()]

    def teardown(self) -> None:
        try:
            if self.bench is not None:
                self.check_that_nothing_is_left()
                self.bench.close()
        finally:
            shutil.rmtree(self.directory)

    def check_that_nothing_is_left(self) -> None:
        """When all is deleted, the store is empty."""
        self.come_to_rest()
        with self.store.transaction():
            for job in self.store.all('job'):
                jobs.delete(self.store, job)
            for pool in self.store.all('pool'):
                pools.delete(self.store, pool)
        self.come_to_rest()
        assert [self.store.all(kind) for kind in ('pool', 'node', 'job', 'task', 'preparation')] == [[]] * 5
        assert not self.workers()


TestService = Service.TestCase
TestService.settings = settings(
    # A third of what the profile says: see conftest.py.
    max_examples=settings.default.max_examples // 3, stateful_step_count=30, deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink), report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck))
