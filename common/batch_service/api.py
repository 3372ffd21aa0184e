"""The REST surface: one short function per operation, one table of routes.

https://learn.microsoft.com/rest/api/batchservice
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Awaitable, Callable, Union
from urllib.parse import quote

from starlette.responses import Response

from .errors import BatchError
from .life import jobs, nodes, pools, tasks
from .values import clock, now
from .wire import documents, files, odata, versions
from .wire.body import LARGEST, LARGEST_COLLECTION, LARGEST_TASK, MOST_TASKS, parse
from .wire.call import (LARGEST_PAGE, Call, address, changed, check_conditions, json_answer, listing, one, page,
                        page_of, skip_token)
from .wire.shapes import Shape, read

Document = dict[str, Any]
Handler = Callable[[Call], Union[Response, Awaitable[Response]]]


# Accounts

def list_supported_images(call: Call) -> Response:
    return page(call, 'supportedimages', 'image', '', odata.IMAGES, _image)


def _image(image: Document) -> Document:
    del image['id']
    return image


# Pools

def add_pool(call: Call) -> Response:
    pool = read(documents.POOL, versions.pool_from_client(call.version, call.body))
    pools.add(call.service.store, pool, _allocation(call))
    return changed(call, 201, pool, address(call, 'pools', pool['id']))


def list_pools(call: Call) -> Response:
    return page(call, 'pools', 'pool', '', odata.POOLS, lambda pool: _pool(call, pool))


def get_pool(call: Call) -> Response:
    return one(call, 'pools', _pool(call, call.pool()))


def patch_pool(call: Call) -> Response:
    pool = _find_pool(call)
    shape = documents.POOL_PATCH if versions.can_patch_machine(call.version) else documents.POOL_PROPERTIES
    changes = read(shape, versions.pool_from_client(call.version, call.body), fill=False)
    pools.change(call.service.store, pool, changes)
    return changed(call, 200, pool)


def update_pool_properties(call: Call) -> Response:
    pool = _find_pool(call)
    changes = read(documents.POOL_PROPERTIES, call.body)
    pools.change(call.service.store, pool, changes, removed=tuple(documents.POOL_PROPERTIES))
    return changed(call, 204, pool)


def resize_pool(call: Call) -> Response:
    pool = _find_pool(call)
    pools.resize(call.service.store, pool, read(documents.POOL_RESIZE, call.body), _allocation(call))
    return changed(call, 202, pool)


def stop_pool_resize(call: Call) -> Response:
    pool = _find_pool(call)
    pools.stop_resize(call.service.store, pool)
    return changed(call, 202, pool)


def remove_nodes(call: Call) -> Response:
    pool = _find_pool(call)
    body = read(documents.REMOVE_NODES, call.body)
    pools.remove_nodes(call.service.store, pool, body['nodeList'], body['nodeDeallocationOption'], _allocation(call))
    return changed(call, 202, pool)


def delete_pool(call: Call) -> Response:
    pools.delete(call.service.store, _find_pool(call))
    return Response(status_code=202)


def list_node_counts(call: Call) -> Response:
    counts = [entry for entry in pools.node_counts(call.service.store)
              if odata.selects_pool(call.query.get('$filter'), entry['poolId'])]
    return page_of(call, 'poolnodecounts', counts, largest=10)


def _allocation(call: Call) -> float:
    """When the nodes of a pool are allocated."""
    return clock() + call.service.settings.allocation_seconds


def _find_pool(call: Call) -> Document:
    pool = call.pool()
    check_conditions(call, pool)
    return pool


def _pool(call: Call, pool: Document) -> Document:
    return {'url': address(call, 'pools', pool['id']), **versions.pool_to_client(call.version, pool)}


# Nodes

def list_nodes(call: Call) -> Response:
    pool = call.pool()
    return page(call, 'nodes', 'node', pool['id'], odata.NODES, lambda node: _node(call, node))


def get_node(call: Call) -> Response:
    return one(call, 'nodes', _node(call, call.node()))


def reboot_node(call: Call) -> Response:
    return _restart_node(call, 'rebooting', documents.NODE_REBOOT, 'nodeRebootOption')


def reimage_node(call: Call) -> Response:
    return _restart_node(call, 'reimaging', documents.NODE_REIMAGE, 'nodeReimageOption')


def _restart_node(call: Call, state: str, shape: Shape, option: str) -> Response:
    node = call.node()
    nodes.restart(call.service.store, node, state, _options(shape, call)[option])
    return changed(call, 202)


def disable_node_scheduling(call: Call) -> Response:
    node = call.node()
    option = _options(documents.NODE_DISABLE, call)['nodeDisableSchedulingOption']
    nodes.disable_scheduling(call.service.store, node, option)
    return changed(call, 200)


def enable_node_scheduling(call: Call) -> Response:
    node = call.node()
    nodes.enable_scheduling(call.service.store, node)
    return changed(call, 200)


def _options(shape: Shape, call: Call) -> Document:
    """What a request asks for whose body may be left out."""
    return read(shape, {} if call.body is None else call.body)


def _node(call: Call, node: Document) -> Document:
    for task in node.get('recentTasks', ()):
        task['taskUrl'] = address(call, 'jobs', task['jobId'], 'tasks', task['taskId'])
    return {'url': address(call, 'pools', call.names['pool'], 'nodes', node['id']), **node}


# Jobs

def add_job(call: Call) -> Response:
    job = read(documents.JOB, call.body)
    jobs.add(call.service.store, job)
    return changed(call, 201, job, address(call, 'jobs', job['id']))


def list_jobs(call: Call) -> Response:
    return page(call, 'jobs', 'job', '', odata.JOBS, lambda job: _job(call, job))


def get_job(call: Call) -> Response:
    return one(call, 'jobs', _job(call, call.job()))


def patch_job(call: Call) -> Response:
    job = _find_job(call)
    jobs.update(call.service.store, job, read(documents.JOB_PATCH, call.body, fill=False))
    return changed(call, 200, job)


def update_job(call: Call) -> Response:
    job = _find_job(call)
    jobs.update(call.service.store, job, read(documents.JOB_UPDATE, call.body), removed=('metadata',))
    return changed(call, 200, job)


def disable_job(call: Call) -> Response:
    job = _find_job(call)
    jobs.disable(call.service.store, job, read(documents.JOB_DISABLE, call.body)['disableTasks'])
    return changed(call, 202, job)


def enable_job(call: Call) -> Response:
    job = _find_job(call)
    jobs.enable(call.service.store, job)
    return changed(call, 202, job)


def terminate_job(call: Call) -> Response:
    job = _find_job(call)
    body = _options(documents.JOB_TERMINATE, call)
    jobs.terminate(call.service.store, job, body['terminateReason'])
    return changed(call, 202, job)


def delete_job(call: Call) -> Response:
    jobs.delete(call.service.store, _find_job(call))
    return Response(status_code=202)


def get_task_counts(call: Call) -> Response:
    job = call.job()
    counts = versions.task_counts_to_client(call.version, tasks.counts(
        call.service.store, job['id'], call.service.settings.counts_lag_seconds))
    return json_answer(call, 'taskcountsresult/@Element', counts)


def list_preparation_and_release_status(call: Call) -> Response:
    job = call.job()
    if 'jobPreparationTask' not in job and 'jobReleaseTask' not in job:
        raise BatchError('JobPreparationTaskOrReleaseTaskNotSpecified')
    return page(call, 'jobpreparationandreleasetaskstatuslist', 'preparation', job['id'], odata.PREPARATIONS,
                lambda status: _preparation(call, status))


def _preparation(call: Call, status: Document) -> Document:
    del status['id']
    return {'nodeUrl': address(call, 'pools', status['poolId'], 'nodes', status['nodeId']), **status}


def _find_job(call: Call) -> Document:
    job = call.job()
    check_conditions(call, job)
    return job


def _job(call: Call, job: Document) -> Document:
    return {'url': address(call, 'jobs', job['id']), **job}


# Tasks

def add_task(call: Call) -> Response:
    job = call.job()
    jobs.refuse_unless_open(job)
    if call.size > LARGEST_TASK:
        raise BatchError('RequestBodyTooLarge')
    task = tasks.add(call.service.store, job, read(documents.TASK, call.body))
    return changed(call, 201, task, address(call, 'jobs', job['id'], 'tasks', task['id']))


async def add_task_collection(call: Call) -> Response:
    bodies = read(documents.TASK_COLLECTION, call.body)['value']
    results: list[Document] = []
    # Other requests come in between tasks that are very large.
    at_once = MOST_TASKS if call.size <= LARGEST else 1
    for first in range(0, len(bodies) or 1, at_once):
        with call.service.store.transaction():
            job = call.job()
            jobs.refuse_unless_open(job)
            results += [_add_one_of_collection(call, job, body) for body in bodies[first:first + at_once]]
        await asyncio.sleep(0)
    return json_answer(call, 'taskaddresult', {'value': results})


def _add_one_of_collection(call: Call, job: Document, body: Any) -> Document:
    task_id = ''
    try:
        body = parse(body) if isinstance(body, bytes) else body
        task_id = body.get('id', '') if isinstance(body, dict) else ''
        task = tasks.add(call.service.store, job, read(documents.TASK, body))
    except BatchError as error:
        return {'taskId': str(task_id), 'status': 'clienterror', 'error': error.document()}
    return {'taskId': task['id'], 'status': 'success', 'eTag': task['eTag'], 'lastModified': task['lastModified'],
            'location': address(call, 'jobs', job['id'], 'tasks', task['id'])}


def list_tasks(call: Call) -> Response:
    job = call.job()
    return page(call, 'tasks', 'task', job['id'], odata.TASKS, lambda task: _task(call, job['id'], task))


def get_task(call: Call) -> Response:
    return one(call, 'tasks', _task(call, *call.task()))


def update_task(call: Call) -> Response:
    job_id, task = _find_task(call)
    tasks.update(call.service.store, job_id, task, read(documents.TASK_UPDATE, call.body)['constraints'])
    return changed(call, 200, task)


def reactivate_task(call: Call) -> Response:
    job_id, task = _find_task(call)
    tasks.reactivate(call.service.store, job_id, task)
    return Response(status_code=204)


async def terminate_task(call: Call) -> Response:
    store = call.service.store
    with store.transaction():
        job_id, task = _find_task(call)
        tasks.terminate(store, job_id, task)
    # The answer promises that its processes are gone.
    await call.service.until(lambda: not _is_on_node(call, job_id, task))
    return changed(call, 204, task)


async def delete_task(call: Call) -> Response:
    store = call.service.store
    with store.transaction():
        job_id, task = _find_task(call)
        tasks.end(store, job_id, task, 'forget')
    await call.service.until(lambda: not _is_on_node(call, job_id, task))
    call.service.remove_files_of(task)
    return Response(status_code=200)


def _is_on_node(call: Call, job_id: str, task: Document) -> bool:
    found = call.service.store.find('task', job_id, task['id'])
    return found is not None and found['creationTime'] == task['creationTime'] and found['state'] in tasks.ON_NODE


def _find_task(call: Call) -> tuple[str, Document]:
    job_id, task = call.task()
    check_conditions(call, task)
    return job_id, task


def _task(call: Call, job_id: str, task: Document) -> Document:
    if 'nodeInfo' in task:
        node = task['nodeInfo']
        url = address(call, 'pools', node['poolId'], 'nodes', node['nodeId'])
        task['nodeInfo'] = {**node, 'nodeUrl': url, 'taskRootDirectoryUrl': f'{url}/files/{node["taskRootDirectory"]}'}
    return {'url': address(call, 'jobs', job_id, 'tasks', task['id']), **task}


def list_subtasks(call: Call) -> Response:
    call.task()
    return page_of(call, 'subtasks', [])


# Files of tasks and of nodes

@dataclass(frozen=True)
class _Files:
    """Where a request's files are, and the address of their collection."""

    base: Path
    url: str

    def address(self, name: str) -> str:
        return f'{self.url}/{quote(os.fsencode(name.lstrip("/")))}'


def _files(call: Call) -> _Files:
    if 'node' in call.names:
        node = call.node()
        root = call.service.node_root(node['id'])
        if root is None:
            raise BatchError('NodeNotReady')
        return _Files(root, address(call, 'pools', node['_pool'], 'nodes', node['id'], 'files'))
    job_id, task = call.task()
    base = _directory_of_task(call, job_id, task)
    return _Files(base, address(call, 'jobs', job_id, 'tasks', task['id'], 'files'))


def _directory_of_task(call: Call, job_id: str, task: Document) -> Path:
    if 'nodeInfo' not in task:
        raise BatchError('OperationInvalidForCurrentState',
                         Reason=f'The state of the task is {task["state"]}, and it has not run on a node')
    directory = call.service.task_directory(task['nodeInfo']['nodeId'], job_id, task['id'])
    if directory is None:
        raise BatchError('TaskFilesUnavailable')
    if not os.path.isdir(directory):
        raise BatchError('TaskFilesCleanedup')
    return directory


async def list_files(call: Call) -> Response:
    where = _files(call)
    found, last = await asyncio.to_thread(
        files.listing, where.base, where.url, recursive=_is_true(call, 'recursive'),
        prefix=odata.name_prefix(call.query.get('$filter')), after=skip_token(call),
        most=call.number('maxresults', LARGEST_PAGE, 1, LARGEST_PAGE))
    return listing(call, 'files', found, last)


async def get_file(call: Call) -> Response:
    where, name = _files(call), call.names['path']
    return await asyncio.to_thread(files.content, where.base, name, where.address(name), call.headers.get('ocp-range'))


async def get_file_properties(call: Call) -> Response:
    where, name = _files(call), call.names['path']
    return await asyncio.to_thread(files.properties, where.base, name, where.address(name))


async def delete_file(call: Call) -> Response:
    await asyncio.to_thread(files.delete, _files(call).base, call.names['path'], _is_true(call, 'recursive'),
                            call.service.throw_away)
    return Response(status_code=200)


def _is_true(call: Call, parameter: str) -> bool:
    return call.query.get(parameter, 'false').lower() == 'true'


# What there is none of, and what is refused

def get_pool_statistics(call: Call) -> Response:
    return json_answer(call, 'poolstats/@Element', _statistics(call))


def get_job_statistics(call: Call) -> Response:
    return json_answer(call, 'jobstats/@Element', {
        **_statistics(call), **dict.fromkeys(('userCPUTime', 'kernelCPUTime', 'wallClockTime', 'waitTime'), 'PT0S'),
        **dict.fromkeys(('readIOps', 'writeIOps', 'numSucceededTasks', 'numFailedTasks', 'numTaskRetries'), '0'),
        **dict.fromkeys(('readIOGiB', 'writeIOGiB'), 0.0)})


def _statistics(call: Call) -> Document:
    moment = now()
    return {'url': call.base + call.path, 'startTime': moment, 'lastUpdateTime': moment}


@dataclass(frozen=True)
class NoneOf:
    """Answers with the empty list of what cannot exist here."""

    fragment: str

    def __call__(self, call: Call) -> Response:
        return page_of(call, self.fragment, [])


@dataclass(frozen=True)
class Missing:
    """Answers that one of what cannot exist here does not exist."""

    code: str

    def __call__(self, call: Call) -> Response:
        raise BatchError(self.code)


@dataclass(frozen=True)
class Refused:
    """Refuses an operation by name."""

    what: str

    def __call__(self, call: Call) -> Response:
        raise BatchError('OperationNotImitated', f'The local Batch service does not imitate {self.what}.',
                         Operation=f'{call.method} {call.path}')


@dataclass(frozen=True)
class Route:
    """One operation: its verb, its path and who answers it.

    Attributes:
        path: ``{name}`` stands for one segment, ``{name*}`` for all that follow.
        largest_body: In bytes.
        until: The last version of the API that has it.
    """

    method: str
    path: str
    handler: Handler
    largest_body: int = LARGEST
    until: str = versions.SUPPORTED[-1]


ROUTES = (
    Route('GET', '/supportedimages', list_supported_images),
    Route('POST', '/pools', add_pool),
    Route('GET', '/pools', list_pools),
    Route('GET', '/pools/{pool}', get_pool),
    Route('HEAD', '/pools/{pool}', get_pool),
    Route('DELETE', '/pools/{pool}', delete_pool),
    Route('PATCH', '/pools/{pool}', patch_pool),
    Route('POST', '/pools/{pool}/updateproperties', update_pool_properties),
    Route('POST', '/pools/{pool}/resize', resize_pool),
    Route('POST', '/pools/{pool}/stopresize', stop_pool_resize),
    Route('POST', '/pools/{pool}/removenodes', remove_nodes),
    Route('GET', '/nodecounts', list_node_counts),
    Route('GET', '/pools/{pool}/nodes', list_nodes),
    Route('GET', '/pools/{pool}/nodes/{node}', get_node),
    Route('POST', '/pools/{pool}/nodes/{node}/reboot', reboot_node),
    Route('POST', '/pools/{pool}/nodes/{node}/reimage', reimage_node),
    Route('POST', '/pools/{pool}/nodes/{node}/disablescheduling', disable_node_scheduling),
    Route('POST', '/pools/{pool}/nodes/{node}/enablescheduling', enable_node_scheduling),
    Route('GET', '/pools/{pool}/nodes/{node}/files', list_files),
    Route('GET', '/pools/{pool}/nodes/{node}/files/{path*}', get_file),
    Route('HEAD', '/pools/{pool}/nodes/{node}/files/{path*}', get_file_properties),
    Route('DELETE', '/pools/{pool}/nodes/{node}/files/{path*}', delete_file),
    Route('POST', '/jobs', add_job),
    Route('GET', '/jobs', list_jobs),
    Route('GET', '/jobs/{job}', get_job),
    Route('PATCH', '/jobs/{job}', patch_job),
    Route('DELETE', '/jobs/{job}', delete_job),
    Route('PUT', '/jobs/{job}', update_job),
    Route('POST', '/jobs/{job}/disable', disable_job),
    Route('POST', '/jobs/{job}/enable', enable_job),
    Route('POST', '/jobs/{job}/terminate', terminate_job),
    Route('GET', '/jobs/{job}/jobpreparationandreleasetaskstatus', list_preparation_and_release_status),
    Route('GET', '/jobs/{job}/taskcounts', get_task_counts),
    Route('POST', '/jobs/{job}/tasks', add_task),
    Route('POST', '/jobs/{job}/addtaskcollection', add_task_collection, LARGEST_COLLECTION),
    Route('GET', '/jobs/{job}/tasks', list_tasks),
    Route('GET', '/jobs/{job}/tasks/{task}', get_task),
    Route('PUT', '/jobs/{job}/tasks/{task}', update_task),
    Route('DELETE', '/jobs/{job}/tasks/{task}', delete_task),
    Route('POST', '/jobs/{job}/tasks/{task}/reactivate', reactivate_task),
    Route('POST', '/jobs/{job}/tasks/{task}/terminate', terminate_task),
    Route('GET', '/jobs/{job}/tasks/{task}/files', list_files),
    Route('GET', '/jobs/{job}/tasks/{task}/files/{path*}', get_file),
    Route('HEAD', '/jobs/{job}/tasks/{task}/files/{path*}', get_file_properties),
    Route('DELETE', '/jobs/{job}/tasks/{task}/files/{path*}', delete_file),
    Route('GET', '/jobs/{job}/tasks/{task}/subtasksinfo', list_subtasks),
    Route('GET', '/applications', NoneOf('applications')),
    Route('GET', '/applications/{application}', Missing('ApplicationNotFound')),
    Route('GET', '/certificates', NoneOf('certificates')),
    Route('POST', '/certificates', Refused('certificates')),
    Route('GET', '/certificates({certificate})', Missing('CertificateNotFound')),
    Route('DELETE', '/certificates({certificate})', Missing('CertificateNotFound')),
    Route('POST', '/certificates({certificate})/canceldelete', Missing('CertificateNotFound')),
    Route('GET', '/poolusagemetrics', NoneOf('poolusagemetrics')),
    Route('GET', '/lifetimepoolstats', get_pool_statistics, until=versions.WITH_LIFETIME_STATISTICS),
    Route('GET', '/lifetimejobstats', get_job_statistics, until=versions.WITH_LIFETIME_STATISTICS),
    Route('POST', '/pools/{pool}/enableautoscale', Refused('autoscale formulas')),
    Route('POST', '/pools/{pool}/disableautoscale', Refused('autoscale formulas')),
    Route('POST', '/pools/{pool}/evaluateautoscale', Refused('autoscale formulas')),
    Route('GET', '/jobschedules', NoneOf('jobschedules')),
    Route('POST', '/jobschedules', Refused('job schedules')),
    Route('GET', '/jobschedules/{schedule}', Missing('JobScheduleNotFound')),
    Route('HEAD', '/jobschedules/{schedule}', Missing('JobScheduleNotFound')),
    Route('PATCH', '/jobschedules/{schedule}', Missing('JobScheduleNotFound')),
    Route('PUT', '/jobschedules/{schedule}', Missing('JobScheduleNotFound')),
    Route('DELETE', '/jobschedules/{schedule}', Missing('JobScheduleNotFound')),
    Route('GET', '/jobschedules/{schedule}/jobs', Missing('JobScheduleNotFound')),
    Route('POST', '/jobschedules/{schedule}/disable', Missing('JobScheduleNotFound')),
    Route('POST', '/jobschedules/{schedule}/enable', Missing('JobScheduleNotFound')),
    Route('POST', '/jobschedules/{schedule}/terminate', Missing('JobScheduleNotFound')),
    Route('POST', '/pools/{pool}/nodes/{node}/deallocate', Refused('deallocated nodes')),
    Route('POST', '/pools/{pool}/nodes/{node}/start', Refused('deallocated nodes')),
    Route('POST', '/pools/{pool}/nodes/{node}/users', Refused('node users')),
    Route('PUT', '/pools/{pool}/nodes/{node}/users/{user}', Refused('node users')),
    Route('DELETE', '/pools/{pool}/nodes/{node}/users/{user}', Refused('node users')),
    Route('GET', '/pools/{pool}/nodes/{node}/remoteloginsettings', Refused('remote login')),
    Route('GET', '/pools/{pool}/nodes/{node}/rdp', Refused('remote login')),
    Route('POST', '/pools/{pool}/nodes/{node}/uploadbatchservicelogs', Refused('the upload of service logs')),
    Route('GET', '/pools/{pool}/nodes/{node}/extensions', NoneOf('extensions')),
    Route('GET', '/pools/{pool}/nodes/{node}/extensions/{extension}', Refused('extensions')),
)
