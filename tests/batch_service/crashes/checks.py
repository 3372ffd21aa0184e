"""What the service has promised, compared with the ledger, the log of the tasks and what was uploaded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..workbench import wait_until
from .ledger import Job
from .load import Load, output_of
from .sink import Sink

FATES = {'active': 'active', 'disabling': 'disabled', 'disabled': 'disabled', 'terminating': 'terminated',
         'completed': 'terminated', 'deleting': 'deleted'}
BESIDE = ('jobpreparation', 'jobrelease')


class Checks:
    """Each fails where a promise is broken."""

    def __init__(self, load: Load, sink: Sink) -> None:
        self.load = load
        self.sink = sink

    def every_job(self) -> list[Job]:
        return [*self.load.past, *self.load.jobs.values()]

    def jobs_there(self) -> list[Job]:
        return [job for job in self.load.jobs.values() if not job.is_gone]

    def documents(self, path: str) -> dict[str, Any]:
        status, answer = self.load.send('GET', path)
        assert status == 200 and 'odata.nextLink' not in answer
        return {document['id']: document for document in answer['value']}

    def check_answered(self, *, all: bool = False) -> None:
        """Every answered change is there. What nobody has changed since the last time is looked at on demand."""
        found = self.documents('/jobs')
        for job in self.load.jobs.values():
            self.check_job(job, found.get(job.id))
        listed = {job.id: self.documents(f'/jobs/{job.id}/tasks') for job in self.jobs_there() if all or job.may_change}
        begins = self.begins()
        for job_id, tasks in listed.items():
            self.check_tasks(self.load.jobs[job_id], tasks, begins)
            self.load.jobs[job_id].changed = False
        for job in self.every_job():
            for task_id, task in job.tasks.items():
                seen = len(begins[f'{job.name}/{task_id}'])
                assert task.begins in (None, seen), f'{job.name}/{task_id} ran again though it was completed'

    def check_job(self, job: Job, found: dict[str, Any] | None) -> None:
        fate = FATES[found['state']] if found else 'deleted'
        assert fate in job.fates, f'{job.name} is {found}, not {job.fates}'
        job.fates = {fate}
        if found and not job.is_gone:
            assert found['displayName'] == job.name, f'{found["displayName"]} is there, not {job.name}'
            assert found['priority'] in job.priorities, job.name
            job.priorities = {found['priority']}

    def check_tasks(self, job: Job, found: dict[str, Any], begins: dict[str, list[float]]) -> None:
        assert found.keys() <= job.tasks.keys(), f'{job.name} has tasks that it was not given'
        for task_id, task in job.tasks.items():
            name = f'{job.name}/{task_id}'
            if task_id not in found:
                assert task.fates & {'deleted', 'absent'}, f'{name} is lost'
                task.fates = {'deleted'}
                continue
            task.fates -= {'deleted', 'absent'}
            assert task.fates, f'{name} was deleted'
            state, information = found[task_id]['state'], found[task_id]['executionInfo']
            if task.fates == {'ended'}:
                assert state == 'completed', f'{name} was terminated, and is {state}'
                assert task.kind != 'long' or information['failureInfo']['code'] == 'TaskEnded'
            if state == 'completed':
                task.begins = len(begins[name]) if task.begins is None else task.begins
                if task.kind == 'uploaded' and information['result'] == 'success':
                    assert f'/{name}' in self.sink.kept, f'{name} has succeeded without its output'

    def check_uploads(self) -> None:
        """What is there is whole, and a job's own."""
        for path, content in self.sink.kept.items():
            assert content == output_of(path[1:]), f'{path} is not what its task has written'

    # The log of the tasks

    def lines(self) -> Iterator[tuple[float, str, str]]:
        for line in self.load.log.read_text().splitlines():
            moment, what, name = line.split()
            yield float(moment), what, name

    def begins(self) -> dict[str, list[float]]:
        found = defaultdict(list)
        for moment, what, name in self.lines():
            assert what != 'twice', f'{name} ran twice at once'
            if what == 'begin':
                found[name].append(moment)
        return found

    def check_past(self) -> None:
        """Nothing of a job runs once there is a new one of its id."""
        over = {job.name: job.over for job in self.load.past if job.over}
        for moment, what, name in self.lines():
            assert moment <= over.get(name.partition('/')[0], moment), f'{name}: {what} at {moment}, when it was gone'

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
                cut = any(began < end + 0.5 and first < over for began, over in self.load.kills)
                restarted = any(first - 1 < moment < second
                                for moment in self.load.restarts[name.rpartition('/')[2]])
                assert cut or restarted, (f'{name} ran twice, at {first} and {second}; it ended at {ends[name]}; '
                                          f'kills: {self.load.kills}')

    # The end

    def run_to_the_end(self) -> None:
        """Takes back what holds work up, and waits for what is to come of it."""
        load = self.load
        for job in self.jobs_there():
            if job.fates == {'disabled'}:
                load.wish(job.fates, 'active', 'POST', f'/jobs/{job.id}/enable')
            for task_id, task in job.tasks.items():
                if task.kind == 'long' and job.fates == {'active'} and 'run' in task.fates:
                    load.wish(task.fates, 'ended', 'POST', f'/jobs/{job.id}/tasks/{task_id}/terminate')
        wait_until(lambda: load.send('GET', '/pools/harsh')[0] == 200 or load.add_again() == 201)
        for pool in ('wild', 'harsh'):
            wait_until(lambda: load.send('GET', f'/pools/{pool}')[1]['allocationState'] == 'steady', 30)
            load.send('POST', f'/pools/{pool}/resize', {'targetDedicatedNodes': 2})
        for job in self.jobs_there():
            if job.fates == {'active'}:
                wait_until(lambda: self.open_nodes() is not None and all(
                    task['state'] == 'completed' for task in self.documents(f'/jobs/{job.id}/tasks').values()), 30)
        wait_until(self.open_nodes, 30)

    def open_nodes(self) -> bool:
        """Has tasks placed on all nodes; returns whether they all are idle."""
        idle = True
        for pool in ('calm', 'wild', 'harsh'):
            nodes = self.documents(f'/pools/{pool}/nodes').values()
            for node in nodes:
                if node['schedulingState'] == 'disabled':
                    self.load.send('POST', f'/pools/{pool}/nodes/{node["id"]}/enablescheduling')
            idle &= len(nodes) == 2 and all(node['state'] == 'idle' for node in nodes)
        return idle

    def check_the_end(self) -> None:
        """Wishes are fulfilled, what was not ended by one has run, counts equal lists."""
        expected = {job.id: 'completed' if job.fates == {'terminated'} else 'active' for job in self.jobs_there()}
        wait_until(lambda: {id: job['state'] for id, job in self.documents('/jobs').items()} == expected)
        begins = self.begins()
        for job in self.every_job():
            if job.prepared and job.pool == 'calm' and job.fates & {'terminated', 'deleted'}:
                prepared, released = ({name.rpartition('/')[2] for name in begins
                                       if name.startswith(f'{job.name}/{kind}/')} for kind in BESIDE)
                # A preparation may have been cut off before it logged anything: then, too, its node is released.
                assert prepared <= released, f'{job.name} was prepared on {prepared}, released on {released}'
        for job in self.jobs_there():
            self.check_end_of(job, begins)
        for entry in self.load.send('GET', '/nodecounts')[1]['value']:
            states = [node['state'] for node in self.documents(f'/pools/{entry["poolId"]}/nodes').values()]
            assert entry['dedicated']['total'] == entry['dedicated']['idle'] == len(states) == states.count('idle')

    def check_end_of(self, job: Job, begins: dict[str, list[float]]) -> None:
        listed = self.documents(f'/jobs/{job.id}/tasks')
        counts = self.load.send('GET', f'/jobs/{job.id}/taskcounts')[1]['taskCounts']
        states = [task['state'] for task in listed.values()]
        assert (counts['active'], counts['running'], counts['completed']) == (
            states.count('active'), states.count('running') + states.count('preparing'), states.count('completed'))
        for id, task in listed.items():
            if job.fates == {'terminated'}:
                assert task['state'] in ('active', 'completed')
            elif job.tasks[id].fates == {'run'} and job.pool != 'harsh' and not job.ends_tasks:
                assert task['executionInfo'].get('exitCode') == 0, (job.name, task)
                assert begins[f'{job.name}/{id}'], f'{job.name}/{id} never ran'

    def left_in(self, nodes: Path) -> list[Path]:
        """The directories of pools, nodes, jobs and tasks that there are not."""
        known = {pool: self.documents(f'/pools/{pool}/nodes') for pool in self.documents('/pools')}
        left = [root for root in nodes.glob('*/*') if root.name not in known.get(root.parent.name, ())]
        for directory in nodes.glob('*/*/workitems/*/job-1/*'):
            job = self.load.jobs[directory.parent.parent.name]
            task = job.tasks.get(directory.name)
            if job.is_gone or (task.fates == {'deleted'} if task else directory.name not in BESIDE):
                left.append(directory)
        return left
