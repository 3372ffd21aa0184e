"""The REST surface: one short function per operation, one table of routes.

https://learn.microsoft.com/rest/api/batchservice
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Awaitable, Callable, Union
from urllib.parse import quote

from starlette.responses import Response

from . import documents, files, odata
from .errors import BatchError
from .images import supported_images
from .shapes import read
from .wire import Call, address, changed, check_conditions, json_answer, one, page, page_of

Document = dict[str, Any]
Handler = Callable[[Call], Union[Response, Awaitable[Response]]]


# Accounts

def list_supported_images(call: Call) -> Response:
    return page_of(call, 'supportedimages', supported_images())


# Pools

def add_pool(call: Call) -> Response:
    pool = read(documents.POOL, call.body)
    call.service.pools.add(pool)
    return changed(call, 201, pool, address(call, 'pools', pool['id']))


def list_pools(call: Call) -> Response:
    return page(call, 'pools', 'pool', '', odata.POOLS, lambda pool: _pool(call, pool))


def get_pool(call: Call) -> Response:
    return one(call, 'pools', _pool(call, call.service.pools.get(call.names['pool'])))


def delete_pool(call: Call) -> Response:
    pool = call.service.pools.get(call.names['pool'])
    check_conditions(call, pool)
    call.service.pools.delete(pool)
    return Response(status_code=202)


def _pool(call: Call, pool: Document) -> Document:
    return {'url': address(call, 'pools', pool['id']), **pool}


# Nodes

def list_nodes(call: Call) -> Response:
    pool = call.service.pools.get(call.names['pool'])
    return page(call, 'nodes', 'node', pool['id'], odata.NODES, lambda node: _node(call, node))


def get_node(call: Call) -> Response:
    return one(call, 'nodes', _node(call, call.service.pools.node(call.names['pool'], call.names['node'])))


def _node(call: Call, node: Document) -> Document:
    for task in node.get('recentTasks', ()):
        task['taskUrl'] = address(call, 'jobs', task['jobId'], 'tasks', task['taskId'])
    return {'url': address(call, 'pools', call.names['pool'], 'nodes', node['id']), **node}


# Jobs

def add_job(call: Call) -> Response:
    job = read(documents.JOB, call.body)
    call.service.jobs.add(job)
    return changed(call, 201, job, address(call, 'jobs', job['id']))


def list_jobs(call: Call) -> Response:
    return page(call, 'jobs', 'job', '', odata.JOBS, lambda job: _job(call, job))


def get_job(call: Call) -> Response:
    return one(call, 'jobs', _job(call, call.service.jobs.get(call.names['job'])))


def patch_job(call: Call) -> Response:
    job = call.service.jobs.get(call.names['job'])
    check_conditions(call, job)
    call.service.jobs.update(job, read(documents.JOB_PATCH, call.body, fill=False))
    return changed(call, 200, job)


def terminate_job(call: Call) -> Response:
    job = call.service.jobs.get(call.names['job'])
    check_conditions(call, job)
    body = read(documents.JOB_TERMINATE, call.body or {})
    call.service.jobs.terminate(job, body['terminateReason'])
    return changed(call, 202, job)


def delete_job(call: Call) -> Response:
    job = call.service.jobs.get(call.names['job'])
    check_conditions(call, job)
    call.service.jobs.delete(job)
    return Response(status_code=202)


def get_task_counts(call: Call) -> Response:
    job = call.service.jobs.get(call.names['job'])
    return json_answer(call, 'taskcountsresult/@Element', call.service.tasks.counts(job['id']))


def _job(call: Call, job: Document) -> Document:
    return {'url': address(call, 'jobs', job['id']), **job}


# Tasks

def add_task(call: Call) -> Response:
    job = call.service.jobs.get(call.names['job'])
    call.service.jobs.refuse_unless_open(job)
    task = call.service.tasks.add(job, read(documents.TASK, call.body))
    return changed(call, 201, task, address(call, 'jobs', job['id'], 'tasks', task['id']))


def add_task_collection(call: Call) -> Response:
    job = call.service.jobs.get(call.names['job'])
    call.service.jobs.refuse_unless_open(job)
    tasks = read(documents.TASK_COLLECTION, call.body)['value']
    return json_answer(call, 'taskaddresult', {'value': [_add_one_of_collection(call, job, task) for task in tasks]})


def _add_one_of_collection(call: Call, job: Document, body: Any) -> Document:
    task_id = body.get('id', '') if isinstance(body, dict) else ''
    try:
        task = call.service.tasks.add(job, read(documents.TASK, body))
    except BatchError as error:
        return {'taskId': str(task_id), 'status': 'clienterror', 'error': error.document()}
    return {'taskId': task['id'], 'status': 'success', 'eTag': task['eTag'], 'lastModified': task['lastModified'],
            'location': address(call, 'jobs', job['id'], 'tasks', task['id'])}


def list_tasks(call: Call) -> Response:
    job = call.service.jobs.get(call.names['job'])
    return page(call, 'tasks', 'task', job['id'], odata.TASKS, lambda task: _task(call, job['id'], task))


def get_task(call: Call) -> Response:
    job_id, task = _find_task(call)
    return one(call, 'tasks', _task(call, job_id, task))


async def terminate_task(call: Call) -> Response:
    job_id, task = _find_task(call)
    check_conditions(call, task)
    await call.service.tasks.terminate(job_id, task)
    return changed(call, 204, task)


async def delete_task(call: Call) -> Response:
    job_id, task = _find_task(call)
    check_conditions(call, task)
    await call.service.tasks.delete(job_id, task)
    return Response(status_code=200)


def _find_task(call: Call) -> tuple[str, Document]:
    job = call.service.jobs.get(call.names['job'])
    return job['id'], call.service.tasks.get(job['id'], call.names['task'])


def _task(call: Call, job_id: str, task: Document) -> Document:
    if 'nodeInfo' in task:
        node = task['nodeInfo']
        url = address(call, 'pools', node['poolId'], 'nodes', node['nodeId'])
        task['nodeInfo'] = {**node, 'nodeUrl': url, 'taskRootDirectoryUrl': f'{url}/files/{node["taskRootDirectory"]}'}
    return {'url': address(call, 'jobs', job_id, 'tasks', task['id']), **task}


# Files of tasks and of nodes

@dataclass(frozen=True)
class _Files:
    """Where a request's files are, and the address of their collection."""

    base: Path
    url: str

    def address(self, name: str) -> str:
        return f'{self.url}/{quote(name.lstrip("/"))}'


def _files(call: Call) -> _Files:
    if 'node' in call.names:
        node = call.service.pools.node(call.names['pool'], call.names['node'])
        worker = call.service.pools.worker(node['id'])
        return _Files(worker.node.root, address(call, 'pools', worker.pool_id, 'nodes', node['id'], 'files'))
    job_id, task = _find_task(call)
    base = call.service.tasks.directory(job_id, task)
    return _Files(base, address(call, 'jobs', job_id, 'tasks', task['id'], 'files'))


def list_files(call: Call) -> Response:
    where = _files(call)
    prefix = odata.name_prefix(call.query.get('$filter'))
    return page_of(call, 'files', files.listing(where.base, where.url, _is_true(call, 'recursive'), prefix))


def get_file(call: Call) -> Response:
    where, name = _files(call), call.names['path']
    return files.content(files.find(where.base, name), where.address(name), call.headers.get('ocp-range'))


def get_file_properties(call: Call) -> Response:
    where, name = _files(call), call.names['path']
    return files.properties(files.find(where.base, name), where.address(name))


def delete_file(call: Call) -> Response:
    files.delete(files.find(_files(call).base, call.names['path']), _is_true(call, 'recursive'))
    return Response(status_code=200)


def _is_true(call: Call, parameter: str) -> bool:
    return call.query.get(parameter, 'false').lower() == 'true'


@dataclass(frozen=True)
class Route:
    """One operation: its verb, its path with placeholders, and who answers it.

    Attributes:
        path: ``{name}`` stands for one segment, ``{name*}`` for all that follow.
        handler: None where the service refuses the operation.
        refusal: What it does not imitate, where it refuses.
    """

    method: str
    path: str
    handler: Handler | None = None
    refusal: str = ''


ROUTES = (
    Route('GET', '/supportedimages', list_supported_images),
    Route('POST', '/pools', add_pool),
    Route('GET', '/pools', list_pools),
    Route('GET', '/pools/{pool}', get_pool),
    Route('HEAD', '/pools/{pool}', get_pool),
    Route('DELETE', '/pools/{pool}', delete_pool),
    Route('GET', '/pools/{pool}/nodes', list_nodes),
    Route('GET', '/pools/{pool}/nodes/{node}', get_node),
    Route('GET', '/pools/{pool}/nodes/{node}/files', list_files),
    Route('GET', '/pools/{pool}/nodes/{node}/files/{path*}', get_file),
    Route('HEAD', '/pools/{pool}/nodes/{node}/files/{path*}', get_file_properties),
    Route('DELETE', '/pools/{pool}/nodes/{node}/files/{path*}', delete_file),
    Route('POST', '/jobs', add_job),
    Route('GET', '/jobs', list_jobs),
    Route('GET', '/jobs/{job}', get_job),
    Route('PATCH', '/jobs/{job}', patch_job),
    Route('DELETE', '/jobs/{job}', delete_job),
    Route('POST', '/jobs/{job}/terminate', terminate_job),
    Route('GET', '/jobs/{job}/taskcounts', get_task_counts),
    Route('POST', '/jobs/{job}/tasks', add_task),
    Route('POST', '/jobs/{job}/addtaskcollection', add_task_collection),
    Route('GET', '/jobs/{job}/tasks', list_tasks),
    Route('GET', '/jobs/{job}/tasks/{task}', get_task),
    Route('DELETE', '/jobs/{job}/tasks/{task}', delete_task),
    Route('POST', '/jobs/{job}/tasks/{task}/terminate', terminate_task),
    Route('GET', '/jobs/{job}/tasks/{task}/files', list_files),
    Route('GET', '/jobs/{job}/tasks/{task}/files/{path*}', get_file),
    Route('HEAD', '/jobs/{job}/tasks/{task}/files/{path*}', get_file_properties),
    Route('DELETE', '/jobs/{job}/tasks/{task}/files/{path*}', delete_file),
)
