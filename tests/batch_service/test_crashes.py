"""Kills the service, its reaper and both at random moments of a mixed load, and looks whether it keeps its promises."""

from __future__ import annotations

import os
import random
import secrets
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.batch.batch_auth import SharedKeyAuth

from ..leftovers import needs_proc
from .workbench import ACCOUNT, ServiceProcess, wait_until

VERSION = 'api-version=2024-07-01.20.0'
FATES = {'active': 'active', 'disabling': 'disabled', 'disabled': 'disabled', 'terminating': 'terminated',
         'completed': 'terminated', 'deleting': 'deleted'}
# Says when it begins and ends; the lock, which only this shell holds, tells whether there are two of it at once.
SCRIPT = '''#!/bin/bash
name=$AZ_BATCH_JOB_ID/$AZ_BATCH_TASK_ID
case $1 in preparation|release) name=$name/$AZ_BATCH_NODE_ID;; esac
exec 9>>"$0.locks/${name//\\//.}"
flock -n 9 || echo "$EPOCHREALTIME twice $name" >> "$0.log"
echo "$EPOCHREALTIME begin $name" >> "$0.log"
case $1 in
    long) sleep 600 9>&-;;
    flaky) sleep 0.02 9>&-; echo >> "$0.locks/${name//\\//.}.tries"
           [ $(wc -l < "$0.locks/${name//\\//.}.tries") -gt 1 ] || exit 1;;
    fetched) [ "$(cat source)" = content ] || exit 2;;
    *) sleep 0.0$((RANDOM % 9)) 9>&-;;
esac
echo "$EPOCHREALTIME end $name" >> "$0.log"
'''


@dataclass
class Task:
    """What may have become of a task: ``run``, ``ended``, ``deleted`` or ``absent``."""

    kind: str
    fates: set[str]
    begins: int | None = None


@dataclass
class Job:
    """What may have become of a job, by what was asked and answered."""

    id: str
    pool: str
    prepared: bool
    fates: set[str] = field(default_factory=set)
    priorities: set[int] = field(default_factory=lambda: {0})
    tasks: dict[str, Task] = field(default_factory=dict)
    ends_tasks: bool = False


class Load:
    """Sends requests, and remembers what was answered."""

    def __init__(self, service: ServiceProcess, directory: Path, source: str) -> None:
        self.service = service
        self.script = directory / 'task.sh'
        self.script.write_text(SCRIPT)
        self.script.chmod(0o755)
        (directory / 'task.sh.locks').mkdir()
        self.log = directory / 'task.sh.log'
        self.log.touch()
        self.source = source
        self.jobs: dict[str, Job] = {}
        self.harsh: set[bool] = {True}
        self.kills: list[tuple[float, float]] = []
        self.restarts: dict[str, list[float]] = defaultdict(list)
        self.failures: list[str] = []
        self.local = threading.local()
        self.auth = SharedKeyAuth('Authorization', ACCOUNT, service.key_file.read_text())

    def send(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Returns the status and the document of the answer; 0 if there is none."""
        session = self.local.__dict__.setdefault('session', requests.Session())
        session.trust_env = False
        try:
            answer = session.request(method, f'{self.service.url}{path}?{VERSION}', json=body, auth=self.auth,
                                     timeout=15)
            if answer.status_code == 503:  # it stops: what was asked for may be done
                return 0, None
            if answer.status_code >= 500 or answer.content and answer.content[:1] != b'{':
                self.failures.append(f'{method} {path}: {answer.status_code} {answer.text}')
            return answer.status_code, answer.json() if answer.content[:1] == b'{' else None
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            return 0, None

    def add_pool(self, pool_id: str, nodes: int) -> int:
        return self.send('POST', '/pools', {
            'id': pool_id, 'vmSize': 'STANDARD_D2S_V5', 'targetDedicatedNodes': nodes, 'taskSlotsPerNode': 8,
            'startTask': {'commandLine': 'sleep 0.02', 'waitForSuccess': pool_id != 'wild'},
            'virtualMachineConfiguration': {
                'imageReference': {'publisher': 'canonical', 'offer': 'ubuntu-24_04-lts', 'sku': 'server'},
                'nodeAgentSKUId': 'batch.node.ubuntu 24.04'}})[0]

    def task(self, task_id: str, kind: str) -> dict[str, Any]:
        files = [{'httpUrl': self.source, 'filePath': 'source'}] if kind == 'fetched' else []
        return {'id': task_id, 'commandLine': f'{self.script} {kind}', 'resourceFiles': files,
                'constraints': {'maxTaskRetryCount': -1 if kind == 'flaky' else 0}}

    def work_on_jobs(self, seed: str, worker: int) -> None:
        """Adds jobs and does to its own whatever can be done, until the service does not answer."""
        chance, number = random.Random(seed), 0
        while True:
            mine = [job for id, job in self.jobs.items() if id.startswith(f'job{worker}') and job.fates != {'deleted'}]
            if not mine or chance.random() < 0.3:
                number += 1
                if not self.add_job(f'job{worker}-{seed}-{number}', chance):
                    return
            elif not self.change_job(chance.choice(mine[-4:] if len(mine) < 5 else mine[:1] + mine[-4:]), chance):
                return

    def add_job(self, job_id: str, chance: random.Random) -> int:
        job = Job(job_id, chance.choice(('calm', 'calm', 'wild', 'harsh')), chance.random() < 0.5)
        beside = {'jobPreparationTask': {'commandLine': f'{self.script} preparation'},
                  'jobReleaseTask': {'commandLine': f'{self.script} release'}} if job.prepared else {}
        job.fates = {'active', 'deleted'}
        self.jobs[job_id] = job
        status, _ = self.send('POST', '/jobs', {'id': job_id, 'poolInfo': {'poolId': job.pool}, **beside})
        if status == 201:
            job.fates = {'active'}
            kinds = {f'task{number}': kind for number, kind in enumerate(
                chance.choices(('quick', 'flaky', 'fetched'), k=chance.randint(1, 6)) + ['long'])}
            job.tasks = {id: Task(kind, {'run', 'absent'}) for id, kind in kinds.items()}
            status, added = self.send('POST', f'/jobs/{job_id}/addtaskcollection', {
                'value': [self.task(id, kind) for id, kind in kinds.items()]})
            for entry in added['value'] if status == 200 else ():
                job.tasks[entry['taskId']].fates = {'run'}
        return status

    def change_job(self, job: Job, chance: random.Random) -> int:
        path = f'/jobs/{job.id}'
        what = chance.choices(('disable', 'enable', 'terminate', 'delete', 'patch', 'add', 'end', 'remove', 'read'),
                              (2, 2, 1, 1, 1, 2, 3, 2, 1))[0]
        if what in ('end', 'remove') and job.tasks:
            task_id = chance.choice(list(job.tasks))
            method, after = ('POST', '/terminate') if what == 'end' else ('DELETE', '')
            return self.wish(job.tasks[task_id].fates, 'ended' if what == 'end' else 'deleted',
                             method, f'{path}/tasks/{task_id}{after}')
        if what == 'add':
            task_id = f'task{len(job.tasks)}'
            job.tasks[task_id] = Task('quick', {'absent'})
            return self.wish(job.tasks[task_id].fates, 'run', 'POST', f'{path}/tasks', self.task(task_id, 'quick'))
        if what == 'patch':
            return self.wish(job.priorities, priority := chance.randint(1, 99), 'PATCH', path, {'priority': priority})
        if what == 'disable':
            how = chance.choice(('requeue', 'terminate', 'wait'))
            job.ends_tasks |= how == 'terminate'
            return self.wish(job.fates, 'disabled', 'POST', f'{path}/disable', {'disableTasks': how})
        if what in ('enable', 'terminate', 'delete'):
            fate = {'enable': 'active', 'terminate': 'terminated', 'delete': 'deleted'}[what]
            method, after = ('DELETE', '') if what == 'delete' else ('POST', f'/{what}')
            return self.wish(job.fates, fate, method, path + after)
        return self.send('GET', f'{path}/taskcounts')[0]

    def wish(self, fates: set[Any], fate: Any, method: str, path: str, body: Any = None) -> int:
        """Asks for something: what was answered is so, what was not may be."""
        before = set(fates)
        fates.add(fate)
        status, _ = self.send(method, path, body)
        if 200 <= status < 300:
            fates.intersection_update({fate})
        elif status:
            fates.intersection_update(before)
        return status

    def work_on_pools(self, seed: str) -> None:
        """Does to two pools and their nodes whatever can be done, until the service does not answer."""
        chance = random.Random(seed)
        while True:
            pool = chance.choice(('wild', 'harsh'))
            how = chance.choice(('requeue', 'taskcompletion', *(('terminate',) if pool == 'harsh' else ())))
            status, listed = self.send('GET', f'/pools/{pool}/nodes')
            if status == 404:
                status = self.add_again()
            elif status == 200:
                status = self.change_pool(pool, [node['id'] for node in listed['value']], how, chance)
            if not status:
                return
            time.sleep(0.02)

    def add_again(self) -> int:
        before = set(self.harsh)
        self.harsh.add(True)
        status = self.add_pool('harsh', 2)
        if status:
            self.harsh.intersection_update({True} if status == 201 else before)
        return status

    def change_pool(self, pool: str, node_ids: list[str], how: str, chance: random.Random) -> int:
        what = chance.choice(('resize', 'reboot', 'reimage', 'disablescheduling', 'enablescheduling', 'delete'))
        if what == 'delete':
            return self.wish(self.harsh, False, 'DELETE', '/pools/harsh') if pool == 'harsh' else 200
        if what == 'resize' or not node_ids:
            return self.send('POST', f'/pools/{pool}/resize', {'targetDedicatedNodes': chance.randint(1, 3),
                                                               'nodeDeallocationOption': how})[0]
        node_id = chance.choice(node_ids)
        option = {'reboot': 'nodeRebootOption', 'reimage': 'nodeReimageOption',
                  'disablescheduling': 'nodeDisableSchedulingOption'}.get(what)
        if what in ('reboot', 'reimage'):
            self.restarts[node_id].append(time.time())
        return self.send('POST', f'/pools/{pool}/nodes/{node_id}/{what}', {option: how} if option else None)[0]

    # What is looked at

    def check_answered(self) -> None:
        """Every answered change is there."""
        listed = {}
        for job in self.jobs.values():
            status, document = self.send('GET', f'/jobs/{job.id}')
            fate = FATES[document['state']] if status == 200 else 'deleted'
            assert fate in job.fates, f'{job.id} is {document}, not {job.fates}'
            job.fates = {fate}
            if fate == 'deleted':
                continue
            assert document['priority'] in job.priorities, job.id
            job.priorities = {document['priority']}
            status, answer = self.send('GET', f'/jobs/{job.id}/tasks')
            if status == 200:
                listed[job.id] = {task['id']: task for task in answer['value']}
        begins = self.begins()
        for job_id, tasks in listed.items():
            self.check_tasks(self.jobs[job_id], tasks, begins)

    def check_tasks(self, job: Job, found: dict[str, Any], begins: dict[str, list[float]]) -> None:
        for task_id, task in job.tasks.items():
            if task_id not in found:
                assert task.fates & {'deleted', 'absent'}, f'{job.id}/{task_id} is lost'
                task.fates = {'deleted'}
                continue
            task.fates -= {'deleted', 'absent'}
            assert task.fates, f'{job.id}/{task_id} was deleted'
            state, information = found[task_id]['state'], found[task_id]['executionInfo']
            if task.fates == {'ended'}:
                assert state == 'completed', f'{job.id}/{task_id} was terminated, and is {state}'
                assert task.kind != 'long' or information['failureInfo']['code'] == 'TaskEnded'
            if state == 'completed':
                seen = len(begins[f'{job.id}/{task_id}'])
                assert task.begins in (None, seen), f'{job.id}/{task_id} ran again though it was completed'
                task.begins = seen

    def lines(self) -> Iterator[tuple[float, str, str]]:
        for line in self.log.read_text().splitlines():
            moment, what, name = line.split()
            yield float(moment), what, name

    def begins(self) -> dict[str, list[float]]:
        found = defaultdict(list)
        for moment, what, name in self.lines():
            assert what != 'twice', f'{name} ran twice at once'
            if what == 'begin':
                found[name].append(moment)
        return found

    def check_once(self) -> None:
        """Preparation and release tasks ran once on each node, unless cut off by a kill or a restart of the node."""
        ends = defaultdict(list)
        for moment, what, name in self.lines():
            if what == 'end':
                ends[name].append(moment)
        for name, moments in self.begins().items():
            if name.count('/') == 1:
                continue
            for first, second in zip(moments, moments[1:]):
                end = min((end for end in ends[name] if first < end <= second), default=second)
                cut = any(began < end + 0.5 and first < over for began, over in self.kills)
                restarted = any(first - 1 < moment < second for moment in self.restarts[name.rpartition('/')[2]])
                assert cut or restarted, (f'{name} ran twice, at {first} and {second}; it ended at {ends[name]}; '
                                          f'kills: {self.kills}')


def processes_of(workspace: Path) -> dict[int, int]:
    """When the processes of a workspace's nodes began, in ticks since the machine did, by their ids."""
    mark, found = f'AZ_BATCH_NODE_ROOT_DIR={workspace}'.encode(), {}
    for process in Path('/proc').glob('[0-9]*'):
        try:
            if mark in (process / 'environ').read_bytes():
                found[int(process.name)] = began(int(process.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # ended meanwhile, or somebody else's
    return found


def began(process: int) -> int:
    return int(Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[19])


def reaper_of(process: int) -> int:
    children = Path(f'/proc/{process}/task/{process}/children').read_text().split()
    return next(int(child) for child in children if b'reaper.py' in Path(f'/proc/{child}/cmdline').read_bytes())


def crash(service: ServiceProcess, load: Load, chance: random.Random) -> None:
    """Ends the service in one of five ways, and starts it again."""
    how = chance.choice(('service', 'reaper', 'both', 'all', 'term'))
    reaper, process = reaper_of(service.process.pid), service.process
    moment = time.time()
    if how in ('reaper', 'both', 'all'):
        os.kill(reaper, signal.SIGKILL)
    if how == 'all':
        for task in processes_of(service.workspace):
            try:
                os.kill(task, chance.choice((signal.SIGKILL, signal.SIGSTOP)))
            except ProcessLookupError:
                continue
    if how == 'reaper':
        time.sleep(0.2)
    if how == 'term':
        process.terminate()
        told = time.monotonic()
        process.wait(timeout=20)
        assert time.monotonic() - told < 6, 'SIGTERM took too long'
        wait_until(lambda: not processes_of(service.workspace), 5)
    service.kill()
    service.start()
    load.kills.append((moment, time.time()))
    old = {id for id, moment in processes_of(service.workspace).items() if moment < began(service.process.pid)}
    assert not old, f'processes of an earlier run are there: {old}'


def run_to_the_end(load: Load) -> None:
    """Takes back what holds work up, and waits for what is to come of it."""
    for job in load.jobs.values():
        if job.fates == {'disabled'}:
            load.wish(job.fates, 'active', 'POST', f'/jobs/{job.id}/enable')
    for job in load.jobs.values():
        for task_id, task in job.tasks.items():
            if task.kind == 'long' and job.fates & {'active', 'disabled'} and 'run' in task.fates:
                load.wish(task.fates, 'ended', 'POST', f'/jobs/{job.id}/tasks/{task_id}/terminate')
    wait_until(lambda: load.send('GET', '/pools/harsh')[0] == 200 or load.add_again() == 201)
    for pool in ('wild', 'harsh'):
        wait_until(lambda: load.send('GET', f'/pools/{pool}')[1]['allocationState'] == 'steady', 30)
        load.send('POST', f'/pools/{pool}/resize', {'targetDedicatedNodes': 2})

    def open_nodes(pool: str) -> bool:
        nodes = load.send('GET', f'/pools/{pool}/nodes')[1]['value']
        for node in nodes:
            if node['schedulingState'] == 'disabled':
                load.send('POST', f'/pools/{pool}/nodes/{node["id"]}/enablescheduling')
        return len(nodes) == 2 and all(node['state'] == 'idle' for node in nodes)
    for job in load.jobs.values():
        if job.fates & {'active', 'disabled'}:
            wait_until(lambda: all(open_nodes(pool) or True for pool in ('wild', 'harsh')) and all(
                task['state'] == 'completed' for task in load.send('GET', f'/jobs/{job.id}/tasks')[1]['value']), 30)
    for pool in ('calm', 'wild', 'harsh'):
        wait_until(lambda: open_nodes(pool), 30)


def check_the_end(load: Load) -> None:
    """Wishes are fulfilled, what was not ended by one has run, counts equal lists."""
    begins = load.begins()
    for job in load.jobs.values():
        wait_until(lambda: load.send('GET', f'/jobs/{job.id}')[0] == 404 if job.fates == {'deleted'} else load.send(
            'GET', f'/jobs/{job.id}')[1]['state'] == ('completed' if job.fates == {'terminated'} else 'active'))
        if job.prepared and job.pool == 'calm' and job.fates & {'terminated', 'deleted'}:
            nodes = [{name for name in load.begins() if name.startswith(f'{job.id}/{kind}/')}
                     for kind in ('jobpreparation', 'jobrelease')]
            assert len(nodes[0]) == len(nodes[1]), f'{job.id} was prepared on {nodes[0]}, released on {nodes[1]}'
        if job.fates == {'deleted'}:
            continue
        listed = load.send('GET', f'/jobs/{job.id}/tasks')[1]['value']
        counts = load.send('GET', f'/jobs/{job.id}/taskcounts')[1]['taskCounts']
        states = [task['state'] for task in listed]
        assert (counts['active'], counts['running'], counts['completed']) == (
            states.count('active'), states.count('running') + states.count('preparing'), states.count('completed'))
        for task in listed:
            if job.fates == {'terminated'}:
                assert task['state'] in ('active', 'completed')
            elif job.tasks[task['id']].fates == {'run'} and job.pool != 'harsh' and not job.ends_tasks:
                assert task['executionInfo'].get('exitCode') == 0, (job.id, task)
                assert begins[f'{job.id}/{task["id"]}'], f'{job.id}/{task["id"]} never ran'
    for entry in load.send('GET', '/nodecounts')[1]['value']:
        states = [node['state'] for node in load.send('GET', f'/pools/{entry["poolId"]}/nodes')[1]['value']]
        assert entry['dedicated']['total'] == entry['dedicated']['idle'] == len(states) == states.count('idle')


def left_in(nodes: Path, load: Load) -> list[Path]:
    """The directories of pools, nodes, jobs and tasks that there are not."""
    left = []
    known = {pool: {node['id'] for node in load.send('GET', f'/pools/{pool}/nodes')[1]['value']}
             for pool in (pool['id'] for pool in load.send('GET', '/pools')[1]['value'])}
    for root in nodes.glob('*/*'):
        if root.name not in known.get(root.parent.name, ()):
            left.append(root)
    for directory in nodes.glob('*/*/workitems/*/job-1/*'):
        job = load.jobs[directory.parent.parent.name]
        task = job.tasks.get(directory.name)
        if job.fates == {'deleted'} or task is not None and task.fates == {'deleted'}:
            left.append(directory)
    return left


@needs_proc
@pytest.mark.real
@pytest.mark.timeout(1_200)
def test_service_that_is_killed_at_random_moments_keeps_its_promises(tmp_path: Path, web: tuple[str, Path]) -> None:
    """The environment variable BATCH_CRASHES says how many kills there are (5), BATCH_CRASHES_SEED repeats a run."""
    kills = int(os.environ.get('BATCH_CRASHES', '5'))
    seed = os.environ.get('BATCH_CRASHES_SEED') or secrets.token_hex(4)
    print(f'BATCH_CRASHES_SEED={seed}')
    (web[1] / 'source').write_text('content')
    with open(tmp_path / 'stderr', 'w') as stderr:
        service = ServiceProcess(tmp_path, stderr=stderr)
        service.options = ('--port', service.url.rpartition(':')[2])
        load, chance = Load(service, tmp_path, f'{web[0]}/source'), random.Random(seed)
        try:
            assert [load.add_pool(pool, 2) for pool in ('calm', 'wild', 'harsh')] == [201, 201, 201]
            with ThreadPoolExecutor() as threads:
                for number in range(kills):
                    works = [threads.submit(load.work_on_jobs, f'{seed}-{number}-{worker}', worker)
                             for worker in range(3)] + [threads.submit(load.work_on_pools, f'{seed}-{number}')]
                    time.sleep(chance.uniform(0.05, 0.6))
                    crash(service, load, chance)
                    for work in works:
                        work.result(timeout=30)
                    load.check_answered()
                    assert not load.failures
            run_to_the_end(load)
            load.check_answered()
            check_the_end(load)
            load.check_once()
            wait_until(lambda: not left_in(tmp_path / 'batch' / 'nodes', load))
            assert not load.failures
        finally:
            service.kill()
    assert 'Traceback' not in (tmp_path / 'stderr').read_text()
    wait_until(lambda: not processes_of(tmp_path))
