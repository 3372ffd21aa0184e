"""The engine of a service in this process: what it does when things come together that seldom do."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.batch_service import store as store_module
from common.batch_service import values
from common.batch_service.errors import BatchError
from common.batch_service.life import jobs, nodes, pools, tasks
from common.batch_service.run import engine
from common.batch_service.service import BatchService
from common.batch_service.wire import documents, files
from common.batch_service.wire.shapes import read

from ..workbench import wait_until
from .test_reaper import is_alive, linux

Document = dict[str, Any]


class Bench:
    """A service on the event loop of a test, and what the test does with its documents."""

    def __init__(self, service: BatchService) -> None:
        self.service = service
        self.store = service.store

    def add_pool(self, nodes: int = 1, slots: int = 4, **properties: Any) -> None:
        with self.store.transaction():
            pools.add(self.store, read(documents.POOL, {
                'id': 'pool', 'vmSize': 'standard_d2s_v5', 'targetDedicatedNodes': nodes, 'taskSlotsPerNode': slots,
                'virtualMachineConfiguration': {
                    'imageReference': {'publisher': 'canonical', 'offer': 'ubuntu-24_04-lts', 'sku': 'server'},
                    'nodeAgentSKUId': 'batch.node.ubuntu 24.04'}, **properties}), 0.0)

    def add_job(self, job_id: str = 'job', **properties: Any) -> None:
        with self.store.transaction():
            jobs.add(self.store, read(documents.JOB, {'id': job_id, 'poolInfo': {'poolId': 'pool'}, **properties}))

    def add(self, task_id: str, line: str, job_id: str = 'job', **properties: Any) -> None:
        with self.store.transaction():
            tasks.add(self.store, self.job(job_id), read(
                documents.TASK, {'id': task_id, 'commandLine': line, **properties}))

    def ask(self, change: Callable[..., object], document: Document, *arguments: Any) -> None:
        with self.store.transaction():
            change(self.store, document, *arguments)

    def end(self, task_id: str) -> None:
        with self.store.transaction():
            tasks.terminate(self.store, 'job', self.task(task_id))

    def job(self, job_id: str = 'job') -> Document:
        return self.store.get('job', '', job_id)

    def task(self, task_id: str, job_id: str = 'job') -> Document:
        return self.store.get('task', job_id, task_id)

    def nodes(self) -> list[Document]:
        return self.store.all('node', 'pool')

    async def until(self, holds: Callable[[], object], seconds: float = 15) -> None:
        await asyncio.wait_for(self.service.until(lambda: bool(holds())), seconds)

    async def until_task(self, task_id: str, state: str, job_id: str = 'job') -> Document:
        await self.until(lambda: self.task(task_id, job_id)['state'] == state)
        return self.task(task_id, job_id)

    async def until_nodes(self, *states: str) -> list[Document]:
        await self.until(lambda: [node['state'] for node in self.nodes()] == list(states))
        return self.nodes()

    async def until_file(self, path: Path) -> None:
        while not path.exists():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def benched(workspace: Path) -> AsyncIterator[Bench]:
    service = BatchService(workspace, 'account', 'http://127.0.0.1:1')
    service.start()
    try:
        yield Bench(service)
    finally:
        await service.stop()


def shell(line: str) -> str:
    return f'/bin/bash -c "{line}"'


def beside(path: Path, **properties: Any) -> Document:
    """A preparation and a release task that leave a line each."""
    return {'jobPreparationTask': {'commandLine': shell(f'echo preparation >> {path}'), **properties},
            'jobReleaseTask': {'commandLine': shell(f'echo release >> {path}')}}


def run(test: Callable[[Bench], Any], workspace: Path) -> None:
    async def main() -> None:
        async with benched(workspace) as bench:
            await test(bench)
    asyncio.run(main())


def test_idle_service_commits_nothing_and_does_not_wake_up(tmp_path: Path, monkeypatch) -> None:
    async def test(bench: Bench) -> None:
        bench.add_pool(2, startTask={'commandLine': 'true'})
        bench.add_job(constraints={'maxWallClockTime': 'PT1H'}, **beside(tmp_path / 'lines'))
        bench.add('done', 'true')
        bench.add('too-big', 'true', requiredSlots=200)
        await bench.until_task('done', 'completed')
        await bench.until_nodes('idle', 'idle')
        bench.ask(jobs.disable, bench.job(), 'requeue')
        bench.ask(jobs.enable, bench.job())
        bench.ask(nodes.disable_scheduling, bench.nodes()[0], 'requeue')
        await asyncio.sleep(0.2)
        placings, changes = [], bench.store._connection.total_changes
        monkeypatch.setattr(bench.service._engine, '_place', lambda: placings.append(1))
        await asyncio.sleep(0.5)
        assert (placings, bench.store._connection.total_changes) == ([], changes)
    run(test, tmp_path)


def test_moments_do_not_follow_a_clock_that_is_set_back(tmp_path: Path, monkeypatch) -> None:
    async def test(bench: Bench) -> None:
        before = values.clock()
        monkeypatch.setattr(time, 'time', lambda: before - 7200)
        monkeypatch.setattr(time, 'time_ns', lambda: int((before - 7200) * 1e9))
        bench.add_job(constraints={'maxWallClockTime': 'PT1H'})
        await asyncio.sleep(0.1)
        assert bench.job()['state'] == 'active'
        assert values.moment(bench.job()['creationTime']).timestamp() >= before - 0.001
    run(test, tmp_path)


def test_task_that_is_retained_for_longer_than_calendars_reach_is_completed(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.add_pool()
        bench.add_job()
        bench.add('task', 'true', constraints={'retentionTime': 'P10000000D'})
        await bench.until_task('task', 'completed')
    run(test, tmp_path)


def test_busy_node_reboots(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.add_pool()
        bench.add_job()
        bench.add('task0', 'sleep 600')
        bench.add('task1', 'sleep 600')
        await bench.until(lambda: bench.nodes() and bench.nodes()[0]['runningTasksCount'] == 2)
        booted = bench.nodes()[0]['lastBootTime']
        kept = bench.service.node_root(bench.nodes()[0]['id']) / 'shared' / 'kept'
        kept.touch()
        bench.ask(nodes.restart, bench.nodes()[0], 'rebooting', 'requeue')
        await bench.until(lambda: bench.nodes()[0]['lastBootTime'] != booted)
        await bench.until_task('task1', 'running')
        assert bench.task('task1')['executionInfo']['requeueCount'] == 1
        assert kept.exists()
    run(test, tmp_path)


@pytest.mark.parametrize('state', ['rebooting', 'reimaging'])
def test_node_that_restarts_and_is_then_taken_away_leaves_nothing(tmp_path: Path, state: str, caplog) -> None:
    async def test(bench: Bench) -> None:
        bench.add_pool(slots=1)
        bench.add_job()
        bench.add('task', 'sleep 600')
        await bench.until_task('task', 'running')
        bench.ask(nodes.restart, bench.nodes()[0], state, 'requeue')
        await bench.until(lambda: bench.service._engine._going_down)
        bench.ask(pools.resize, bench.store.get('pool', '', 'pool'), {
            'targetDedicatedNodes': 0, 'resizeTimeout': 'PT15M', 'nodeDeallocationOption': 'requeue'}, 0.0)
        await bench.until(lambda: not bench.nodes())
        await bench.until_task('task', 'active')
        await asyncio.sleep(0.2)
        assert (bench.service._workers.all(), list((tmp_path / 'nodes').glob('*/*'))) == ([], [])
        assert bench.task('task')['state'] == 'active'
        assert caplog.text == ''
    run(test, tmp_path)


def test_node_whose_tasks_beside_end_together_goes_down_once(tmp_path: Path, monkeypatch) -> None:
    downs = []
    monkeypatch.setattr(engine, 'end_processes_below', downs.append)

    async def test(bench: Bench) -> None:
        bench.add_pool(startTask={'commandLine': shell(f'echo >> {tmp_path}/boots; exec sleep 600'),
                                  'waitForSuccess': False})
        for job_id in ('a', 'b', 'c'):
            line = shell(f'touch {tmp_path}/{job_id}; exec sleep 600')
            bench.add_job(job_id, jobPreparationTask={'commandLine': line})
            bench.add('task', 'true', job_id)
        for name in ('a', 'b', 'c', 'boots'):
            await bench.until_file(tmp_path / name)
        bench.ask(nodes.restart, bench.nodes()[0], 'rebooting', 'requeue')
        booted = bench.nodes()[0]['lastBootTime']
        await bench.until(lambda: bench.nodes()[0]['lastBootTime'] != booted)
        await asyncio.sleep(0.5)
        assert len(downs) == len(bench.service._workers.all()) == 1
    run(test, tmp_path)


def test_nodes_that_go_down_together_are_looked_through_together(tmp_path: Path, monkeypatch) -> None:
    looks = []

    def look(*roots: Path) -> None:
        looks.append(roots)
        time.sleep(0.05)
    monkeypatch.setattr(engine, 'end_processes_below', look)

    async def test(bench: Bench) -> None:
        bench.add_pool(nodes=20, startTask={'commandLine': 'true'})
        await bench.until_nodes(*['idle'] * 20)
        names = {node['id'] for node in bench.nodes()}
        bench.ask(pools.delete, bench.store.get('pool', '', 'pool'))
        await bench.until(lambda: bench.store.find('pool', '', 'pool') is None)
        assert sorted(root.name for roots in looks for root in roots) == sorted(names)
        assert len(looks) < 10
    run(test, tmp_path)


def test_terminate_is_not_lost_while_a_reboot_requeues(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.add_pool()
        bench.add_job()
        bench.add('task', 'sleep 600')
        await bench.until_task('task', 'running')
        bench.ask(nodes.restart, bench.nodes()[0], 'rebooting', 'requeue')
        await bench.until(lambda: bench.task('task').get('_end') == 'requeue')
        bench.end('task')
        task = await bench.until_task('task', 'completed')
        assert task['executionInfo']['failureInfo']['code'] == 'TaskEnded'
    run(test, tmp_path)


def test_end_that_the_store_does_not_take_is_written_later(tmp_path: Path, caplog) -> None:
    async def test(bench: Bench) -> None:
        bench.add_pool()
        bench.add_job()
        bench.add('task', shell(f'until [ -e {tmp_path}/go ]; do sleep 0.01; done; exit 7'))
        await bench.until_task('task', 'running')
        bench.store._connection.execute('PRAGMA busy_timeout = 0')
        other = sqlite3.connect(tmp_path / 'batch.db', isolation_level=None)
        other.execute('BEGIN IMMEDIATE')
        (tmp_path / 'go').touch()
        await asyncio.sleep(2.5)
        other.execute('ROLLBACK')
        other.close()
        assert (await bench.until_task('task', 'completed'))['executionInfo']['exitCode'] == 7
        assert caplog.text.count('commit; it tries again') == 1
        await bench.until_nodes('idle')
    run(test, tmp_path)


@pytest.mark.parametrize('under_way', ['task', 'preparation', 'release', 'removal'])
def test_new_job_stays_where_an_old_one_of_its_id_was_disabled_and_deleted(
        tmp_path: Path, monkeypatch, caplog, under_way: str) -> None:
    go = f'until [ -e {tmp_path}/go ]; do sleep 0.01; done'
    lines = {'task': 'true', 'preparation': 'true', 'release': 'true',
             under_way: shell(f"trap '{go}' TERM; touch {tmp_path}/begun; {go}")}

    async def test(bench: Bench) -> None:
        directories = bench.service._workers.directories

        def late(pattern: str) -> list[Path]:
            (tmp_path / 'begun').touch()
            wait_until((tmp_path / 'go').exists, 5)
            return directories(pattern)
        if under_way == 'removal':
            monkeypatch.setattr(bench.service._workers, 'directories', late)
        bench.add_pool()
        bench.add_job(jobPreparationTask={'commandLine': lines['preparation']},
                      jobReleaseTask={'commandLine': lines['release']})
        bench.add('task', lines['task'])
        if under_way in ('task', 'preparation'):
            await bench.until_file(tmp_path / 'begun')
        else:
            await bench.until_task('task', 'completed')
        bench.ask(jobs.disable, bench.job(), 'wait')
        await asyncio.sleep(0)
        bench.ask(jobs.delete, bench.job())
        await bench.until_file(tmp_path / 'begun')
        for _ in range(3):
            await asyncio.sleep(0.05)
            with bench.store.transaction():
                jobs.look_if_ending(bench.store, 'job')
        assert bench.job()['state'] == 'deleting'
        (tmp_path / 'go').touch()
        await bench.until(lambda: bench.store.find('job', '', 'job') is None)

        bench.add_job(jobPreparationTask={'commandLine': 'true'})
        bench.add('task', shell('exit 3'))
        assert (await bench.until_task('task', 'completed'))['executionInfo']['exitCode'] == 3
        assert bench.job()['state'] == 'active'
        bench.ask(jobs.delete, bench.job())
        await bench.until(lambda: bench.store.find('job', '', 'job') is None)
        assert not list((tmp_path / 'nodes').glob('*/*/workitems/*'))
        assert caplog.text == ''
    run(test, tmp_path)


@pytest.mark.parametrize('completed', [False, True])
def test_release_runs_once_though_its_job_is_terminated_and_then_deleted(tmp_path: Path, completed: bool) -> None:
    async def test(bench: Bench) -> None:
        bench.add_pool()
        bench.add_job(jobPreparationTask={'commandLine': 'true'},
                      jobReleaseTask={'commandLine': shell(
                          f'echo release >> {tmp_path}/lines; touch {tmp_path}/begun; sleep 0.3')})
        bench.add('task', 'true')
        await bench.until_task('task', 'completed')
        bench.ask(jobs.terminate, bench.job(), 'enough')
        await bench.until_file(tmp_path / 'begun')
        if completed:
            await bench.until(lambda: bench.job()['state'] == 'completed')
        bench.ask(jobs.delete, bench.job())
        await bench.until(lambda: bench.store.find('job', '', 'job') is None)
        assert (tmp_path / 'lines').read_text() == 'release\n'
    run(test, tmp_path)


def test_node_that_comes_up_while_the_files_of_a_job_go_is_not_released(tmp_path: Path, monkeypatch) -> None:
    async def test(bench: Bench) -> None:
        workers, directories = bench.service._workers, bench.service._workers.directories

        def late(pattern: str) -> list[Path]:
            found = directories(pattern)
            (tmp_path / 'begun').touch()
            wait_until((tmp_path / 'go').exists, 5)
            return found
        monkeypatch.setattr(workers, 'directories', late)
        bench.add_pool()
        bench.add_job(**beside(tmp_path / 'lines'))
        bench.add('task', 'true')
        await bench.until_task('task', 'completed')
        node, = await bench.until_nodes('idle')
        workers.remove(node['id'])
        bench.ask(jobs.delete, bench.job())
        await bench.until_file(tmp_path / 'begun')
        workers.add(bench.store.get('pool', '', 'pool'), node, used=True)
        with bench.store.transaction():
            jobs.look_if_ending(bench.store, 'job')
        await asyncio.sleep(0.1)
        (tmp_path / 'go').touch()
        await bench.until(lambda: bench.store.find('job', '', 'job') is None)
        assert (tmp_path / 'lines').read_text() == 'preparation\n'
        assert not list((tmp_path / 'nodes').glob('*/*/workitems/*'))
    run(test, tmp_path)


def test_node_that_goes_down_is_not_released(tmp_path: Path, monkeypatch) -> None:
    def late(*_: Path) -> None:
        (tmp_path / 'begun').touch()
        wait_until((tmp_path / 'go').exists, 5)

    async def test(bench: Bench) -> None:
        bench.add_pool()
        bench.add_job(**beside(tmp_path / 'lines'))
        bench.add('task', 'true')
        await bench.until_task('task', 'completed')
        monkeypatch.setattr(engine, 'end_processes_below', late)
        bench.ask(nodes.restart, (await bench.until_nodes('idle'))[0], 'rebooting', 'requeue')
        await bench.until_file(tmp_path / 'begun')
        bench.ask(jobs.delete, bench.job())
        await bench.until(lambda: bench.store.find('job', '', 'job') is None)
        (tmp_path / 'go').touch()
        await bench.until_nodes('idle')
        assert (tmp_path / 'lines').read_text() == 'preparation\n'
    run(test, tmp_path)


def test_job_that_cannot_be_placed_does_not_keep_others_back(tmp_path: Path, caplog) -> None:
    async def test(bench: Bench) -> None:
        bench.add_pool()
        for job_id in ('bad', 'good'):
            bench.add_job(job_id)
        job = bench.job('bad')
        bench.store.save('job', '', {**job, 'maxParallelTasks': None})
        bench.add('task', 'true', 'bad')
        bench.add('task', 'true', 'good')
        await bench.until_task('task', 'completed', 'good')
        await asyncio.sleep(1.2)
        assert caplog.text.count('placing bad') == 1
        bench.store.save('job', '', job)
        await bench.until_task('task', 'completed', 'bad')
    run(test, tmp_path)


def test_job_that_could_not_be_placed_is_forgotten_when_it_is_gone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(engine, '_PAUSE_AFTER_TROUBLE', 0.1)

    async def test(bench: Bench) -> None:
        bench.add_pool()
        bench.add_job()
        bench.store.save('job', '', {**bench.job(), 'maxParallelTasks': None})
        await bench.until_nodes('idle')
        await asyncio.sleep(0.1)
        bench.ask(jobs.delete, bench.job())
        await bench.until(lambda: bench.store.find('job', '', 'job') is None)
        await asyncio.sleep(0.3)
        assert bench.service._engine._seconds_to_next_look() is None
    run(test, tmp_path)


def test_job_that_cannot_be_looked_at_does_not_keep_others_back(tmp_path: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(engine, '_PAUSE_AFTER_TROUBLE', 0.1)

    async def test(bench: Bench) -> None:
        for job_id in ('bad', 'good'):
            bench.add_job(job_id)
        job = bench.job('bad')
        with bench.store.transaction():
            bench.store.save('job', '', {**job, 'constraints': None, '_due': 0.0})
            jobs.terminate(bench.store, bench.job('good'), 'enough')
        await bench.until(lambda: bench.job('good')['state'] == 'completed', 5)
        await asyncio.sleep(0.3)
        assert caplog.text.count('The service failed at job  bad') == 1
        bench.ask(jobs.terminate, job, 'enough')
        await bench.until(lambda: bench.job('bad')['state'] == 'completed', 5)
    run(test, tmp_path)


def test_node_whose_start_task_failed_is_neither_disabled_nor_enabled(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.add_pool(startTask={'commandLine': 'false'})
        node, = await bench.until_nodes('starttaskfailed')
        for change in (lambda: nodes.disable_scheduling(bench.store, node, 'requeue'),
                       lambda: nodes.enable_scheduling(bench.store, {**node, 'schedulingState': 'disabled'})):
            with pytest.raises(BatchError):
                change()
    run(test, tmp_path)


def test_scheduling_is_not_enabled_on_a_node_that_leaves(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.add_pool()
        bench.add_job()
        bench.add('task', 'sleep 600')
        await bench.until_task('task', 'running')
        bench.ask(nodes.disable_scheduling, bench.nodes()[0], 'taskcompletion')
        bench.ask(pools.remove_nodes, bench.store.get('pool', '', 'pool'), [bench.nodes()[0]['id']],
                  'taskcompletion', 0.0)
        node, = await bench.until_nodes('leavingpool')
        with pytest.raises(BatchError):
            nodes.enable_scheduling(bench.store, node)
    run(test, tmp_path)


def test_constraints_that_change_while_a_task_is_preparing_count(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.add_pool()
        bench.add_job(jobPreparationTask={'commandLine': shell(f'until [ -e {tmp_path}/go ]; do sleep 0.01; done')})
        bench.add('task', 'sleep 600')
        task = await bench.until_task('task', 'preparing')
        constraints = read(documents.TASK_UPDATE, {'constraints': {'maxWallClockTime': 'PT0.2S'}})['constraints']
        with bench.store.transaction():
            tasks.update(bench.store, 'job', task, constraints)
        (tmp_path / 'go').touch()
        task = await bench.until_task('task', 'completed')
        assert task['constraints']['maxWallClockTime'] == 'PT0.2S'
        assert task['executionInfo']['failureInfo']['code'] == 'TaskEnded'
    run(test, tmp_path)


def test_preparation_ends_before_the_release_of_a_terminated_job_begins(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.add_pool()
        bench.add_job(jobPreparationTask={'commandLine': shell(f'exec 9> {tmp_path}/lock; flock 9; exec sleep 600')},
                      jobReleaseTask={'commandLine': shell(
                          f'exec 9> {tmp_path}/lock; flock -n 9 && echo alone >> {tmp_path}/lines')})
        bench.add('task', 'true')
        await bench.until_file(tmp_path / 'lock')
        bench.ask(jobs.terminate, bench.job(), 'enough')
        await bench.until(lambda: bench.job()['state'] == 'completed')
        assert (tmp_path / 'lines').read_text() == 'alone\n'
        assert bench.task('task')['state'] == 'completed'
    run(test, tmp_path)


def test_preparation_ends_with_its_deleted_job(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.add_pool()
        bench.add_job(jobPreparationTask={'commandLine': shell(
            f'echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 600')})
        bench.add('task', 'true')
        await bench.until_file(tmp_path / 'pid')
        bench.ask(jobs.delete, bench.job())
        await bench.until(lambda: bench.store.find('job', '', 'job') is None)
        assert not is_alive(int((tmp_path / 'pid').read_text()))
    run(test, tmp_path)


@linux
def test_daemon_of_a_start_task_ends_when_its_node_reboots(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        pid = tmp_path / 'pid'
        bench.add_pool(startTask={'commandLine': shell(
            f"setsid bash -c 'echo $$ > {pid}; exec sleep 600' & until [ -s {pid} ]; do sleep 0.01; done")})
        node, = await bench.until_nodes('idle')
        daemon = int(pid.read_text())
        assert is_alive(daemon)
        bench.ask(nodes.restart, node, 'rebooting', 'requeue')
        await bench.until(lambda: bench.nodes()[0]['lastBootTime'] != node['lastBootTime'])
        assert not is_alive(daemon)
        await bench.until_nodes('idle')
    run(test, tmp_path)


def test_node_whose_directories_cannot_be_made_is_unusable(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        (tmp_path / 'nodes' / 'pool').touch()
        bench.add_pool()
        node, = await bench.until_nodes('unusable')
        assert 'The directories of the node cannot be made' in node['errors'][0]['message']
    run(test, tmp_path)


def test_second_service_on_a_workspace_is_refused(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(OSError, match='another service uses'):
            BatchService(tmp_path, 'account', 'http://127.0.0.1:1')
    run(test, tmp_path)


def test_nobody_else_gets_at_nodes_and_database_whatever_the_umask_is(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        assert {name: (tmp_path / name).stat().st_mode & 0o777 for name in ('nodes', 'trash', 'batch.db')} == {
            'nodes': 0o700, 'trash': 0o700, 'batch.db': 0o600}
    before = os.umask(0)
    try:
        run(test, tmp_path)
    finally:
        os.umask(before)


def test_pools_that_are_deleted_while_they_boot_and_place_leave_no_trace(tmp_path: Path, caplog) -> None:
    async def test(bench: Bench) -> None:
        bench.add_job()
        for number in range(12):
            bench.add(f'task{number}', 'sleep 600')
        for number in range(10):
            bench.add_pool(4, slots=2, startTask={'commandLine': 'sleep 0.01', 'waitForSuccess': number % 2 == 0})
            await asyncio.sleep(number * 0.01)
            bench.ask(pools.delete, bench.store.get('pool', '', 'pool'))
            await bench.until(lambda: bench.store.find('pool', '', 'pool') is None)
        assert {task['state'] for task in bench.store.all('task', 'job')} == {'active'}
        while list((tmp_path / 'nodes').iterdir()):
            await asyncio.sleep(0.01)
    run(test, tmp_path)
    assert caplog.text == ''


def test_each_of_many_nodes_costs_no_more_than_each_of_few(tmp_path: Path, monkeypatch) -> None:
    read = 0

    def loads(text: str) -> Any:
        nonlocal read
        read += 1
        return json.loads(text)
    monkeypatch.setattr(store_module, 'json', SimpleNamespace(loads=loads, dumps=json.dumps))

    async def test(bench: Bench) -> None:
        async def cost(number: int) -> float:
            before = read
            bench.add_pool(number)
            await bench.until(lambda: bench.store.counts('node', 'pool') == [('idle', '1', number, number)])
            pool = bench.store.get('pool', '', 'pool')
            bench.ask(pools.delete, pool)
            await bench.until(lambda: not bench.store.ids('pool', ''))
            return (read - before) / number
        few, many = await cost(10), await cost(60)
        assert many < 1.5 * few
    run(test, tmp_path)


def test_requests_come_in_between_the_boots_of_many_nodes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(engine, '_LONGEST_LOOKS_SECONDS', 10)

    async def test(bench: Bench) -> None:
        bench.add_pool(50)
        booted = [0]
        while booted[-1] < 50:
            await asyncio.sleep(0)
            booted.append(len(bench.service._workers.all()))
        assert max(after - before for before, after in zip(booted, booted[1:])) <= 20
    run(test, tmp_path)


def test_requests_come_in_between_the_starts_of_many_tasks(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.add_pool(3)
        await bench.until_nodes('idle', 'idle', 'idle')
        bench.add_job()
        with bench.store.transaction():
            for number in range(12):
                bench.add(f'task{number}', 'sleep 600')
        started = [0]
        while started[-1] < 12:
            await asyncio.sleep(0)
            started.append(len(bench.service._workers.runs_of_job('job')))
        assert max(after - before for before, after in zip(started, started[1:])) <= 5
    run(test, tmp_path)


def test_no_file_of_a_task_or_a_node_is_removed_by_the_event_loop(tmp_path: Path, monkeypatch) -> None:
    async def test(bench: Bench) -> None:
        bench.add_pool()
        bench.add_job()
        bench.add('task', 'false', constraints={'maxTaskRetryCount': 1})
        task = await bench.until_task('task', 'completed')
        bench.service.remove_files_of(task)
        bench.ask(nodes.restart, (await bench.until_nodes('idle'))[0], 'reimaging', 'requeue')
        bench.add('again', 'true')
        await bench.until_task('again', 'completed')
        bench.ask(jobs.delete, bench.job())
        await bench.until(lambda: not bench.store.ids('job', ''))
        bench.ask(pools.delete, bench.store.get('pool', '', 'pool'))
        await bench.until(lambda: not bench.store.ids('pool', ''))
        while list((tmp_path / 'nodes').iterdir()) or list((tmp_path / 'trash').iterdir()):
            await asyncio.sleep(0.01)
        assert set(threads) == {'trash'}
    threads: list[str] = []
    for name in ('unlink', 'rmdir'):
        monkeypatch.setattr(os, name, lambda *path, real=getattr(os, name), **where: (
            threads.append(threading.current_thread().name) or real(*path, **where)))
    run(test, tmp_path)


def test_requests_come_in_between_the_deletions_of_many_tasks(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.add_job()
        with bench.store.transaction():
            for number in range(400):
                bench.add(f'task{number}', 'true')
        bench.ask(jobs.delete, bench.job())
        left = [400]
        while bench.store.ids('job', ''):
            await asyncio.sleep(0)
            left.append(len(bench.store.ids('task', 'job')))
        assert max(before - after for before, after in zip(left, left[1:])) <= 100
    run(test, tmp_path)


def test_tasks_and_releases_of_a_deleted_job_end_together_on_all_nodes(tmp_path: Path) -> None:
    def together(what: str) -> str:
        (tmp_path / what).mkdir()
        return (f'touch {tmp_path}/{what}/$AZ_BATCH_NODE_ID; '
                f'until [ $(ls {tmp_path}/{what} | wc -l) = 3 ]; do sleep 0.01; done')

    async def test(bench: Bench) -> None:
        bench.add_pool(3, slots=1)
        bench.add_job(jobPreparationTask={'commandLine': 'true'},
                      jobReleaseTask={'commandLine': shell(together('released'))})
        line = shell(f"trap '{together('ended')}; exit' TERM; {together('begun')}; while :; do sleep 0.01; done")
        for number in range(3):
            bench.add(f'task{number}', line)
        await bench.until(lambda: bench.store.counts('task', 'job') == [('running', '', 3, 3)])
        for node in bench.nodes():
            await bench.until_file(tmp_path / 'begun' / node['id'])
        bench.ask(jobs.delete, bench.job())
        await bench.until(lambda: bench.store.find('job', '', 'job') is None, 4)
    run(test, tmp_path)


def test_node_whose_files_cannot_be_thrown_away_goes_later(tmp_path: Path, monkeypatch, caplog) -> None:
    async def test(bench: Bench) -> None:
        bench.add_pool()
        await bench.until_nodes('idle')
        trash = bench.service._engine._trash
        throw = trash.throw
        moment = time.monotonic() + 1.5

        def fail(path: Path) -> None:
            if time.monotonic() < moment:
                raise OSError('no space left')
            throw(path)
        monkeypatch.setattr(trash, 'throw', fail)
        bench.ask(pools.delete, bench.store.get('pool', '', 'pool'))
        await bench.until(lambda: bench.store.find('pool', '', 'pool') is None)
        assert caplog.text.count('it tries again') == 1
    run(test, tmp_path)


def test_deadline_holds_though_the_job_was_disabled_meanwhile(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.add_job(constraints={'maxWallClockTime': 'PT1S'})
        bench.ask(jobs.disable, bench.job(), 'wait')
        bench.ask(jobs.enable, bench.job())
        await bench.until(lambda: bench.job()['state'] == 'completed', 5)
    run(test, tmp_path)


def test_prepared_node_is_not_prepared_again_after_a_restart_and_is_released(tmp_path: Path) -> None:
    async def before(bench: Bench) -> None:
        bench.add_pool()
        bench.add_job(**beside(tmp_path / 'lines', rerunOnNodeRebootAfterSuccess=False))
        bench.add('before', 'true')
        await bench.until_task('before', 'completed')
        bench.ask(nodes.restart, (await bench.until_nodes('idle'))[0], 'rebooting', 'requeue')
        bench.add('rebooted', 'true')
        await bench.until_task('rebooted', 'completed')

    async def after(bench: Bench) -> None:
        bench.add('after', 'true')
        await bench.until_task('after', 'completed')
        bench.ask(jobs.terminate, bench.job(), 'enough')
        await bench.until(lambda: bench.job()['state'] == 'completed')
        assert (tmp_path / 'lines').read_text() == 'preparation\nrelease\n'
    run(before, tmp_path)
    run(after, tmp_path)


def test_node_that_rebooted_is_released_though_it_was_not_prepared_since(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.add_pool()
        bench.add_job(**beside(tmp_path / 'lines'))
        bench.add('task', 'true')
        await bench.until_task('task', 'completed')
        node, = await bench.until_nodes('idle')
        bench.ask(nodes.restart, node, 'rebooting', 'requeue')
        await bench.until(lambda: bench.nodes()[0]['lastBootTime'] != node['lastBootTime'])
        bench.ask(jobs.terminate, bench.job(), 'enough')
        await bench.until(lambda: bench.job()['state'] == 'completed')
        assert (tmp_path / 'lines').read_text() == 'preparation\nrelease\n'
    run(test, tmp_path)


def test_wishes_that_a_kill_cut_short_are_fulfilled_at_the_next_start(tmp_path: Path) -> None:
    async def before(bench: Bench) -> None:
        bench.add_pool()
        for job_id in ('terminated', 'disabled', 'deleted'):
            bench.add_job(job_id)
            bench.add('task', 'sleep 600', job_id)
            await bench.until_task('task', 'running', job_id)
        # No await: the service ends before it looks.
        bench.ask(jobs.terminate, bench.job('terminated'), 'enough')
        bench.ask(jobs.disable, bench.job('disabled'), 'terminate')
        bench.ask(jobs.delete, bench.job('deleted'))

    async def after(bench: Bench) -> None:
        await bench.until(lambda: bench.job('terminated')['state'] == 'completed')
        await bench.until(lambda: bench.job('disabled')['state'] == 'disabled')
        await bench.until(lambda: bench.store.find('job', '', 'deleted') is None)
        for job_id in ('terminated', 'disabled'):
            assert bench.task('task', job_id)['executionInfo']['failureInfo']['code'] == 'TaskEnded'
    run(before, tmp_path)
    run(after, tmp_path)


@pytest.mark.parametrize(('ask', 'state'), [
    (lambda store, node: nodes.disable_scheduling(store, node, 'terminate'), 'offline'),
    (lambda store, node: nodes.leave(store, node, 'terminate'), None)], ids=['disabled', 'leaving'])
def test_wish_of_a_node_that_a_kill_cut_short_is_fulfilled_at_the_next_start(
        tmp_path: Path, ask: Callable[..., None], state: str | None) -> None:
    async def before(bench: Bench) -> None:
        bench.add_pool()
        bench.add_job()
        bench.add('task', 'sleep 600')
        await bench.until_task('task', 'running')
        bench.ask(ask, bench.nodes()[0])

    async def after(bench: Bench) -> None:
        await bench.until(lambda: [node['state'] for node in bench.nodes()] == [state] * bool(state))
        task = await bench.until_task('task', 'completed')
        assert task['executionInfo']['failureInfo']['code'] == 'TaskEnded'
    run(before, tmp_path)
    run(after, tmp_path)


def test_preparation_that_a_kill_cut_off_runs_again(tmp_path: Path) -> None:
    async def before(bench: Bench) -> None:
        bench.add_pool()
        bench.add_job(jobPreparationTask={'commandLine': shell(
            f'echo >> {tmp_path}/lines; touch {tmp_path}/begun; until [ -e {tmp_path}/go ]; do sleep 0.01; done')})
        bench.add('task', 'true')
        await bench.until_file(tmp_path / 'begun')

    async def after(bench: Bench) -> None:
        await bench.until_task('task', 'completed')
        assert (tmp_path / 'lines').read_text() == '\n' * 2
    run(before, tmp_path)
    (tmp_path / 'go').touch()
    run(after, tmp_path)


def test_preparation_that_a_kill_cut_off_does_not_seem_to_run_in_a_completed_job(tmp_path: Path) -> None:
    async def before(bench: Bench) -> None:
        bench.add_pool()
        bench.add_job(jobPreparationTask={'commandLine': shell(f'touch {tmp_path}/begun; exec sleep 600')})
        bench.add('task', 'true')
        await bench.until_file(tmp_path / 'begun')

    async def after(bench: Bench) -> None:
        bench.ask(jobs.terminate, bench.job(), 'enough')
        await bench.until(lambda: bench.job()['state'] == 'completed')
        row, = bench.store.all('preparation', 'job')
        information = row['jobPreparationTaskExecutionInfo']
        assert (information['state'], information['failureInfo']['code']) == ('completed', 'TaskEnded')
    run(before, tmp_path)
    run(after, tmp_path)


def test_files_of_what_is_gone_are_swept_at_the_start(tmp_path: Path) -> None:
    async def before(bench: Bench) -> None:
        bench.add_pool()
        for job_id in ('stays', 'goes'):
            bench.add_job(job_id, jobPreparationTask={'commandLine': 'true'})
            for task_id in ('stays', 'goes'):
                bench.add(task_id, 'true', job_id)
                await bench.until_task(task_id, 'completed', job_id)
        bench.store.remove('task', 'stays', 'goes')
        bench.store.remove_some('task', 'goes', 100)
        bench.store.remove('job', '', 'goes')
        for left in ('pool/node', 'gone/node'):
            (tmp_path / 'nodes' / left).mkdir(parents=True)

    async def after(bench: Bench) -> None:
        root, = (tmp_path / 'nodes').glob('*/*')
        assert {path.parent.parent.name + '/' + path.name for path in root.glob('workitems/*/job-1/*')} == {
            'stays/stays', 'stays/jobpreparation'}
        assert [path.name for path in root.glob('workitems/*')] == ['stays']
    run(before, tmp_path)
    run(after, tmp_path)


def busy(path: Path, aside: Path) -> None:
    raise OSError(16, 'Device or resource busy', path)


def test_service_starts_though_files_of_what_is_gone_cannot_be_moved(tmp_path: Path, monkeypatch) -> None:
    async def before(bench: Bench) -> None:
        bench.add_pool()
        await bench.until_nodes('idle')
        root, = (tmp_path / 'nodes').glob('*/*')
        (root / 'workitems/gone/job-1/task').mkdir(parents=True)

    async def after(bench: Bench) -> None:
        bench.add_job()
        bench.add('task', 'true')
        await bench.until_task('task', 'completed')
    run(before, tmp_path)
    monkeypatch.setattr(os, 'rename', busy)
    run(after, tmp_path)


def test_deletion_of_a_file_that_cannot_be_removed_is_refused(tmp_path: Path, monkeypatch) -> None:
    async def test(bench: Bench) -> None:
        (tmp_path / 'file').touch()
        monkeypatch.setattr(os, 'rename', busy)  # so it is for a mount point
        with pytest.raises(BatchError) as error:
            files.delete(tmp_path, 'file', False, bench.service.throw_away)
        assert error.value.code == 'IOError'
    run(test, tmp_path)
