"""The load: jobs, tasks and pools, to which whatever can be done is done, and a ledger of what was answered."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import requests
from azure.batch.batch_auth import SharedKeyAuth

from ..workbench import ACCOUNT, ServiceProcess
from .ledger import Job, Task

VERSION = 'api-version=2024-07-01.20.0'
# Says when it begins and ends; the lock, which only this shell holds, tells whether there are two of it at once.
SCRIPT = '''#!/bin/bash
name=$2/$AZ_BATCH_TASK_ID
case $1 in preparation|release) name=$name/$AZ_BATCH_NODE_ID;; esac
exec 9>>"$0.locks/${name//\\//.}"
flock -n 9 || echo "$EPOCHREALTIME twice $name" >> "$0.log"
echo "$EPOCHREALTIME begin $name" >> "$0.log"
case $1 in
    long) sleep 600 9>&-;;
    flaky) sleep 0.02 9>&-; echo >> "$0.locks/${name//\\//.}.tries"
           [ $(wc -l < "$0.locks/${name//\\//.}.tries") -gt 1 ] || exit 1;;
    fetched) [ "$(cat source)" = content ] || exit 2;;
    uploaded) for part in 1 2 3; do echo "$part $name"; cat "$0.padding"; done > output;;
    *) sleep 0.0$((RANDOM % 9)) 9>&-;;
esac
echo "$EPOCHREALTIME end $name" >> "$0.log"
'''
PADDING = b'.' * 300_000
_MOST_JOBS = 4


def output_of(name: str) -> str:
    """The digest of what a task of the kind ``uploaded`` uploads."""
    parts = (b'%d %s\n' % (part, name.encode()) + PADDING for part in (1, 2, 3))
    return hashlib.sha256(b''.join(parts)).hexdigest()


class Load:
    """Sends requests, and remembers what was answered.

    Args:
        source: The URL that resource files come from.
        sink: The URL that output files go to.
    """

    def __init__(self, service: ServiceProcess, directory: Path, source: str, sink: str) -> None:
        self.service = service
        self.script = directory / 'task.sh'
        self.script.write_text(SCRIPT)
        self.script.chmod(0o755)
        (directory / 'task.sh.locks').mkdir()
        (directory / 'task.sh.padding').write_bytes(PADDING)
        self.log = directory / 'task.sh.log'
        self.log.touch()
        self.source = source
        self.sink = sink
        self.jobs: dict[str, Job] = {}
        self.past: list[Job] = []
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

    def task(self, job: Job, task_id: str, kind: str) -> dict[str, Any]:
        files = [{'httpUrl': self.source, 'filePath': 'source'}] if kind == 'fetched' else []
        outputs = [{'filePattern': 'output', 'uploadOptions': {'uploadCondition': 'taskSuccess'}, 'destination': {
            'container': {'containerUrl': self.sink, 'path': f'{job.name}/{task_id}'}}}] if kind == 'uploaded' else []
        return {'id': task_id, 'commandLine': f'{self.script} {kind} {job.name}', 'resourceFiles': files,
                'outputFiles': outputs, 'constraints': {'maxTaskRetryCount': -1 if kind == 'flaky' else 0}}

    def work_on_jobs(self, seed: str, worker: int) -> None:
        """Adds jobs and does to its own whatever can be done, until the service does not answer."""
        chance, number = random.Random(seed), 0
        while True:
            mine = [job for id, job in self.jobs.items() if id.startswith(f'job{worker}-')]
            there = [job for job in mine if not job.is_gone]
            gone = [job for job in mine[-20:] if job.is_gone]
            if len(there) > _MOST_JOBS:
                status = self.delete_job(there[0])
            elif gone and chance.random() < 0.15:
                status = self.add_job(chance.choice(gone).id, chance)
            elif not there or chance.random() < 0.25:
                number += 1
                status = self.add_job(f'job{worker}-{seed}-{number}', chance)
            else:
                status = self.change_job(chance.choice(there), chance)
            if not status:
                return

    def add_job(self, job_id: str, chance: random.Random) -> int:
        """Adds a job, whose id may be the one of a job that is gone or just going."""
        old = self.jobs.get(job_id)
        job = Job(job_id, old.generation + 1 if old else 1,
                  chance.choice(('calm', 'calm', 'wild', 'harsh')), chance.random() < 0.5)
        beside = {'jobPreparationTask': {'commandLine': f'{self.script} preparation {job.name}'},
                  'jobReleaseTask': {'commandLine': f'{self.script} release {job.name}'}} if job.prepared else {}
        status, _ = self.send('POST', '/jobs', {
            'id': job_id, 'displayName': job.name, 'poolInfo': {'poolId': job.pool}, **beside})
        if old is not None and status not in (0, 201):
            return status
        if old is not None:
            old.over = time.time() if status == 201 else None
            self.past.append(old)
        self.jobs[job_id] = job
        if status == 201:
            job.fates = {'active'}
            kinds = {f'task{number}': kind for number, kind in enumerate(
                chance.choices(('quick', 'flaky', 'fetched', 'uploaded'), k=chance.randint(1, 6)) + ['long'])}
            job.tasks = {id: Task(kind, {'run', 'absent'}) for id, kind in kinds.items()}
            status, added = self.send('POST', f'/jobs/{job_id}/addtaskcollection', {
                'value': [self.task(job, id, kind) for id, kind in kinds.items()]})
            for entry in added['value'] if status == 200 else ():
                job.tasks[entry['taskId']].fates = {'run'}
        return status

    def change_job(self, job: Job, chance: random.Random) -> int:
        job.changed = True
        path = f'/jobs/{job.id}'
        what = chance.choices(('disable', 'enable', 'terminate', 'delete', 'patch', 'add', 'end', 'remove', 'read'),
                              (2, 2, 1, 1, 1, 2, 3, 2, 1))[0]
        if what in ('end', 'remove') and job.tasks:
            task_id = chance.choice(list(job.tasks))
            method, after = ('POST', '/terminate') if what == 'end' else ('DELETE', '')
            return self.wish(job.tasks[task_id].fates, 'ended' if what == 'end' else 'deleted',
                             method, f'{path}/tasks/{task_id}{after}')
        if what == 'add':
            task_id, kind = f'task{len(job.tasks)}', chance.choice(('quick', 'uploaded'))
            job.tasks[task_id] = Task(kind, {'absent'})
            return self.wish(job.tasks[task_id].fates, 'run', 'POST', f'{path}/tasks', self.task(job, task_id, kind))
        if what == 'patch':
            return self.wish(job.priorities, priority := chance.randint(1, 99), 'PATCH', path, {'priority': priority})
        if what == 'disable':
            how = chance.choice(('requeue', 'terminate', 'wait'))
            job.ends_tasks |= how == 'terminate'
            return self.wish(job.fates, 'disabled', 'POST', f'{path}/disable', {'disableTasks': how})
        if what in ('enable', 'terminate'):
            fate = {'enable': 'active', 'terminate': 'terminated'}[what]
            return self.wish(job.fates, fate, 'POST', f'{path}/{what}')
        if what == 'delete':
            return self.delete_job(job)
        return self.send('GET', f'{path}/taskcounts')[0]

    def delete_job(self, job: Job) -> int:
        job.changed = True
        return self.wish(job.fates, 'deleted', 'DELETE', f'/jobs/{job.id}')

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
