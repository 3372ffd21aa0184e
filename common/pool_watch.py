"""Whether it makes sense to go on waiting for the tasks of a job: what has become of the job and of its pool."""
from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import azure.batch.models as batchmodels
from azure.batch import BatchServiceClient
from azure.core.exceptions import ServiceRequestError, ServiceResponseError
from msrest.exceptions import ClientException, ClientRequestError

from common.sdk_errors import one_line
from common.failures import end_of_node_file, explain, printable, with_values
from common.loopback import is_loopback
from common.progress import by_state

_PAUSE = 1.0  # seconds between two looks at the pool
_PATIENCE = timedelta(minutes=2)
# A service on this machine that does not answer has ended: nobody will repair it meanwhile.
_PATIENCE_ON_THIS_MACHINE = timedelta(seconds=10)
_MOST_NODE_ERRORS = 3

_JOB_STATES_WITHOUT_FUTURE = ('disabling', 'disabled', 'terminating', 'completed', 'deleting')
_NODE_STATES_WITHOUT_FUTURE = ('unusable', 'offline', 'preempted', 'leavingpool')

_ON_START_TASK = ('What to do: put right what the start task runs (create_pool); the nodes of this pool will not try '
                  'again, so delete it.')
_ON_QUOTA = ('What to do: see the quotas of your Batch account in the portal and ask for more cores '
             '(https://learn.microsoft.com/azure/batch/batch-quota-limit), delete pools that you no longer need, '
             'or ask for fewer nodes or a smaller size (_POOL_NODE_COUNT, _POOL_VM_SIZE).')
_ON_ALLOCATION = ('What to do: try again later, or use another VM size (_POOL_VM_SIZE) or a Batch account in '
                  'another region.')


class WaitError(RuntimeError):
    """Waiting has no use, or has taken too long; the text, of one or more lines, is for the reader."""


class PoolWatch:
    """Looks after the pool of a job while its tasks are waited for.

    Attributes:
        nodes: How many nodes were in which state when last looked at.
    """

    def __init__(self, client: BatchServiceClient, job_id: str, note: Callable[[str], None]) -> None:
        """note gets a line for the reader that does not end the wait."""
        self.nodes: Counter[str] = Counter()
        self._client = client
        self._job_id = job_id
        self._note = note
        self._noted: set[str] = set()
        self._next_look = time.monotonic()
        self._job_had_ended = False
        self._out_of_reach_since: float | None = None
        self._patience = _PATIENCE_ON_THIS_MACHINE if is_loopback(str(client.config.batch_url)) else _PATIENCE

    @contextmanager
    def patience(self) -> Iterator[None]:
        """Swallows errors of the with block that pass by themselves, as long as they do.

        Raises WaitError when they last, or when the job or its pool is gone; other errors go through.
        """
        try:
            yield
        except (ClientException, ServiceRequestError, ServiceResponseError, OSError) as error:
            code = getattr(getattr(error, 'error', None), 'code', None)
            if code in ('JobNotFound', 'PoolNotFound'):
                raise WaitError(f'The {code[:-len("NotFound")].lower()} of the tasks is gone: somebody else has '
                                f'deleted it while job [{self._job_id}] was not finished.') from error
            if not _passes_by_itself(error):
                raise
            now = time.monotonic()
            self._out_of_reach_since = self._out_of_reach_since or now
            if now - self._out_of_reach_since >= self._patience.total_seconds():
                raise WaitError(f'The Batch service has given no useful answer for {self._patience}; the tasks may '
                                f'still be running.\n  {printable(one_line(error))}') from error
        else:
            self._out_of_reach_since = None

    def look(self) -> None:
        """Looks at job, pool and nodes, at most once a second; to be called while tasks are not completed.

        Raises WaitError when they can no longer be expected to be, and what the SDK raises.
        """
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _PAUSE
            self._look()

    def timed_out(self, timeout: timedelta) -> WaitError:
        """Returns the error for a wait that took too long: it says in which phase that ended, and how far it came.

        Raises WaitError itself where there is a better reason than the time.
        """
        lines = [f"ERROR: Tasks did not reach 'Completed' state within the timeout period of {timeout}"]
        try:
            lines += self._how_far(*self._look())
        except (ClientException, OSError) as error:
            lines.append(f'  How far they came is not known: {printable(one_line(error))}')
        return WaitError('\n'.join(lines))

    def _look(self) -> tuple[str | None, list[batchmodels.ComputeNode]]:
        job = self._client.job.get(self._job_id, job_get_options=batchmodels.JobGetOptions(
            select='id,state,poolInfo,executionInfo'))
        self._check_job(job)
        pool_id = getattr(job.execution_info, 'pool_id', None) or getattr(job.pool_info, 'pool_id', None)
        if pool_id is None:  # a pool of the job's own that is still to be made
            return None, []
        # The pool before its nodes: of a pool that is steady, all nodes are there to be seen.
        pool = self._client.pool.get(pool_id, pool_get_options=batchmodels.PoolGetOptions(
            select='id,state,allocationState,resizeErrors,enableAutoScale,targetDedicatedNodes,'
                   'targetLowPriorityNodes'))
        nodes = list(self._client.compute_node.list(
            pool_id, compute_node_list_options=batchmodels.ComputeNodeListOptions(
                select='id,state,startTaskInfo,errors')))
        self.nodes = Counter(_text(node.state) for node in nodes)
        self._check_pool(pool_id, pool, nodes)
        return pool_id, nodes

    def _check_job(self, job: batchmodels.CloudJob) -> None:
        state = _text(job.state)
        had_ended, self._job_had_ended = self._job_had_ended, state in ('terminating', 'completed')
        # One that had ended before the tasks were listed, not one that ended because they have.
        if state not in _JOB_STATES_WITHOUT_FUTURE or (self._job_had_ended and not had_ended):
            return
        information = job.execution_info
        reason = getattr(information, 'terminate_reason', None)
        error = getattr(information, 'scheduling_error', None)
        raise WaitError(
            f'Job [{self._job_id}] is {state}{f" ({reason})" if reason else ""}, and not all of its tasks are '
            'completed: without somebody\'s doing they will not be.'
            + (f'\n  {error.code}{with_values(error.message, error.details)}' if error else ''))

    def _check_pool(self, pool_id: str, pool: batchmodels.CloudPool, nodes: list[batchmodels.ComputeNode]) -> None:
        failed = [node for node in nodes if _text(node.state) == 'starttaskfailed']
        if failed:
            # What failed on one node would fail on the next; and this one costs money while it does nothing.
            raise WaitError('\n'.join(self._start_task_failed(pool_id, failed, len(nodes))))
        if pool.state == batchmodels.PoolState.deleting:
            raise WaitError(f'Pool [{pool_id}] is being deleted, and not all tasks are completed: somebody else '
                            'has done that.')
        shortfall = [f'  {error.code}{with_values(error.message, error.values)}' for error in pool.resize_errors or ()]
        if any(_text(node.state) not in _NODE_STATES_WITHOUT_FUTURE for node in nodes):
            if shortfall:
                self._note_once(f'  Pool [{pool_id}] has fewer nodes than it asked for, {len(nodes)} of '
                                f'{_target(pool)}; the tasks take longer.', *shortfall)
        elif pool.allocation_state == batchmodels.AllocationState.steady and pool.enable_auto_scale is not True:
            raise WaitError('\n'.join(_nodes_missing(pool_id, pool, nodes, shortfall)))

    def _note_once(self, *lines: str) -> None:
        text = '\n'.join(map(printable, lines))
        if text not in self._noted:
            self._noted.add(text)
            self._note(text)

    def _start_task_failed(self, pool_id: str, failed: list[batchmodels.ComputeNode], total: int) -> Iterator[str]:
        node = failed[0]
        others = f', and on {len(failed) - 1} more of {total} nodes' if len(failed) > 1 else ''
        yield f'The start task failed on node {node.id}{others}, so that no task can run there.'
        if node.start_task_info:
            yield f'  {explain(node.start_task_info)}'
        yield from self._start_task_output(pool_id, node)
        yield f'  {_ON_START_TASK}'

    def _start_task_output(self, pool_id: str, node: batchmodels.ComputeNode) -> Iterator[str]:
        for name in ('startup/stdout.txt', 'startup/stderr.txt'):
            for line in end_of_node_file(self._client, pool_id, node.id, name):
                yield f'  {line}'

    def _how_far(self, pool_id: str | None, nodes: list[batchmodels.ComputeNode]) -> Iterator[str]:
        tasks = self._client.job.get_task_counts(self._job_id).task_counts
        waiting = [node for node in nodes if _text(node.state) == 'waitingforstarttask']
        if self.nodes['running'] or self.nodes['idle']:
            phase = 'tasks were running'
        elif waiting:
            phase = 'the start task was running'
        else:
            phase = 'nodes were being allocated and started'
        yield f'  It ended while {phase}.'
        yield f'  Tasks: {tasks.active} active, {tasks.running} running, {tasks.completed} completed.'
        yield f'  Nodes: {by_state(self.nodes)}.'
        if pool_id and phase == 'the start task was running':
            yield from self._start_task_output(pool_id, waiting[0])


def _nodes_missing(pool_id: str, pool: batchmodels.CloudPool, nodes: list[batchmodels.ComputeNode],
                   shortfall: list[str]) -> Iterator[str]:
    states = by_state(Counter(_text(node.state) for node in nodes))
    yield (f'Pool [{pool_id}] has no node that can run tasks, and none is on its way. '
           f'Nodes: {states}, of {_target(pool)} that it asked for.')
    errors = [f'  Node {node.id}: {error.code}{with_values(error.message, error.error_details)}'
              for node in nodes for error in node.errors or ()]
    yield from map(printable, [*errors[:_MOST_NODE_ERRORS], *shortfall])
    if any('quota' in line.lower() for line in shortfall):
        yield f'  {_ON_QUOTA}'
    elif shortfall or any(_text(node.state) == 'unusable' for node in nodes):
        yield f'  {_ON_ALLOCATION}'


def _target(pool: batchmodels.CloudPool) -> int:
    return (pool.target_dedicated_nodes or 0) + (pool.target_low_priority_nodes or 0)


def _text(state: object) -> str:
    # A state that this version of the SDK does not know is a plain string.
    return str(getattr(state, 'value', state))


def _passes_by_itself(error: Exception) -> bool:
    if isinstance(error, batchmodels.BatchErrorException):
        status = getattr(error.response, 'status_code', None)
        return isinstance(status, int) and (status in (408, 429) or status >= 500)
    # What requests raises while it reads an answer is an OSError.
    return isinstance(error, (ClientRequestError, ServiceRequestError, ServiceResponseError, OSError))
