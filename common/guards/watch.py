"""Against waiting for tasks in vain: what has become of their job, its pool and its nodes, and how far they are."""
from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import azure.batch.models as batchmodels
from azure.batch import BatchServiceClient
from azure.core.exceptions import ServiceRequestError, ServiceResponseError
from msrest.exceptions import ClientException, ClientRequestError

from common.guards.failures import end_of_file, explain, printable, with_values
from common.guards.one_line import one_line
from common.guards.run import in_words
from common.loopback import is_loopback

_LONGEST_PAUSE = 1.0  # seconds between two looks
_PATIENCE = timedelta(minutes=2)
# A service on this machine that does not answer has ended: nobody will repair it meanwhile.
_PATIENCE_ON_THIS_MACHINE = timedelta(seconds=10)
_MOST_NODE_ERRORS = 3

_JOB_STATES_WITHOUT_FUTURE = ('disabling', 'disabled', 'terminating', 'completed')
_NODE_STATES_WITHOUT_FUTURE = ('unusable', 'offline', 'preempted', 'leavingpool')

_ON_START_TASK = ('  What to do: put right what the start task runs (start_task_commands); the nodes of this pool will '
                  'not try again, so delete it.')
_ON_QUOTA = ('  What to do: see the quotas of your Batch account in the portal and ask for more cores '
             '(https://learn.microsoft.com/azure/batch/batch-quota-limit), delete pools that you no longer need, '
             'or ask for fewer nodes or a smaller size (_POOL_NODE_COUNT, _POOL_VM_SIZE).')
_ON_ALLOCATION = ('  What to do: try again later, or use another VM size (_POOL_VM_SIZE) or a Batch account in '
                  'another region.')

_GONE = 'The {what} of the tasks is gone: somebody else has deleted it while job [{job_id}] was not finished.'

# The Batch SDK's own; those of a token that is fetched anew; and what requests raises while it reads an answer.
_NO_ANSWER = (ClientRequestError, ServiceRequestError, ServiceResponseError, OSError)


class WaitError(RuntimeError):
    """Waiting has no use, or has taken too long; the text, of one or more lines, is for the reader."""


@contextmanager
def watch_over_job(client: BatchServiceClient, job_id: str, timeout: timedelta) -> Iterator[JobWatch]:
    """Yields the watch over a job whose tasks are waited for; in the end, the line of its progress is ended."""
    watch = JobWatch(client, job_id, timeout)
    try:
        yield watch
    finally:
        # An error here would hide why the block has ended: a terminal that is closed sends SIGHUP, and takes no text.
        with suppress(OSError):
            watch.say('')


class JobWatch:
    """Says whether it makes sense to go on waiting, and shows how far the tasks are."""

    def __init__(self, client: BatchServiceClient, job_id: str, timeout: timedelta) -> None:
        self._client = client
        self._job_id = job_id
        self._timeout = timeout
        self._start = self._next_look = time.monotonic()
        self._out_of_reach_since: float | None = None
        self._job_had_ended = False
        self._noted: set[str] = set()
        self._nodes: Counter[str] = Counter()
        self._tasks: batchmodels.TaskCounts | None = None
        self._at_a_terminal = sys.stdout.isatty() and os.environ.get('TERM') != 'dumb'
        if self._at_a_terminal:
            # The line below the one that has been begun is written again and again.
            print(flush=True)

    def has_time(self) -> bool:
        """Says whether the timeout has not passed yet."""
        return time.monotonic() - self._start < self._timeout.total_seconds()

    @property
    def pause(self) -> float:
        """The seconds until the next look: few at first, or a short run would spend most of its time waiting."""
        return min(max((time.monotonic() - self._start) / 8, 0.05), _LONGEST_PAUSE)

    @contextmanager
    def patience_with_the_service(self) -> Iterator[None]:
        """Swallows errors of the with block that pass by themselves, as long as they do.

        Raises WaitError when they last, or when the job or its pool is gone; other errors go through.
        """
        try:
            yield
        except (ClientException, *_NO_ANSWER) as error:
            code = getattr(getattr(error, 'error', None), 'code', None)
            if code in ('JobNotFound', 'PoolNotFound'):
                what = code[:-len('NotFound')].lower()
                raise WaitError(_GONE.format(what=what, job_id=self._job_id)) from error
            status = getattr(getattr(error, 'response', None), 'status_code', 0)
            if not isinstance(error, _NO_ANSWER) and status not in (408, 429) and status < 500:
                raise
            self._out_of_reach_since = self._out_of_reach_since or time.monotonic()
            local = is_loopback(str(self._client.config.batch_url))
            patience = _PATIENCE_ON_THIS_MACHINE if local else _PATIENCE
            if time.monotonic() - self._out_of_reach_since >= patience.total_seconds():
                raise WaitError(f'The Batch service has given no useful answer for {patience}; the tasks may still be '
                                f'running.\n  {printable(one_line(error))}') from error
        else:
            self._out_of_reach_since = None

    def show_progress(self) -> None:
        """Shows how far the tasks are: a dot per look, or at a terminal a line that is written again and again."""
        if not self._at_a_terminal:
            print('.', end='', flush=True)
        elif self._tasks:
            tasks, columns = self._tasks, shutil.get_terminal_size().columns
            total = tasks.active + tasks.running + tasks.completed
            running = f', {tasks.running} running' if tasks.running else ''
            line = f'  {tasks.completed} of {total} tasks completed{running}; nodes: {_listed(self._nodes)}'
            # From the last column, the cursor of some terminals goes on to the next line.
            self.say(line[:columns - 1])

    def say(self, text: str) -> None:
        """Prints the text on a new line, or at a terminal in place of the progress."""
        print('\r\x1b[K' if self._at_a_terminal else '\n', text, sep='', end='', flush=True)

    def look_at_job_pool_and_nodes(self) -> None:
        """Looks at most once a second; to be called while tasks are not completed.

        Raises WaitError when they can no longer be expected to be, and what the SDK raises.
        """
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LONGEST_PAUSE
            self._look()
            if self._at_a_terminal:
                # These lag behind on Azure: they are shown, and nothing is decided by them.
                self._tasks = self._client.job.get_task_counts(self._job_id).task_counts

    def job_is_there(self) -> bool:
        """Returns True: the tasks that are not listed have been completed, and not deleted with their job.

        Raises WaitError when they have, and what the SDK raises.
        """
        self._refuse_deleted(self._client.job.get(self._job_id))
        return True

    def timed_out(self) -> WaitError:
        """Returns the error for a wait that took too long: it says in which phase that ended, and how far it came.

        Raises WaitError itself where there is a better reason than the time.
        """
        lines = [f"ERROR: Tasks did not reach 'Completed' state within the timeout period of {self._timeout}"]
        try:
            lines += self._how_far(*self._look())
        except (ClientException, *_NO_ANSWER) as error:
            lines.append(f'  How far they came is not known: {printable(one_line(error))}')
        return WaitError('\n'.join(lines))

    def _look(self) -> tuple[str | None, list[batchmodels.ComputeNode]]:
        # A job knows nothing of its nodes: where these are in trouble, its tasks just stay active.
        job = self._client.job.get(self._job_id)
        self._check_job(job)
        pool_id = getattr(job.execution_info, 'pool_id', None) or getattr(job.pool_info, 'pool_id', None)
        if pool_id is None:  # a pool of the job's own that is still to be made
            return None, []
        # The pool before its nodes: of a pool that is steady, all nodes are there to be seen.
        pool = self._client.pool.get(pool_id)
        nodes = list(self._client.compute_node.list(
            pool_id, compute_node_list_options=batchmodels.ComputeNodeListOptions(
                select='id,state,startTaskInfo,errors')))
        self._nodes = Counter(in_words(node.state) for node in nodes)
        self._check_pool(pool, nodes)
        return pool_id, nodes

    def _refuse_deleted(self, job: batchmodels.CloudJob) -> None:
        if job.state == 'deleting':
            raise WaitError(_GONE.format(what='job', job_id=self._job_id))

    def _check_job(self, job: batchmodels.CloudJob) -> None:
        self._refuse_deleted(job)
        had_ended, self._job_had_ended = self._job_had_ended, job.state in ('terminating', 'completed')
        # One that had ended before the tasks were listed, not one that ended because they have.
        if job.state not in _JOB_STATES_WITHOUT_FUTURE or (self._job_had_ended and not had_ended):
            return
        reason = getattr(job.execution_info, 'terminate_reason', None)
        error = getattr(job.execution_info, 'scheduling_error', None)
        raise WaitError(
            f'Job [{self._job_id}] is {in_words(job.state)}{f" ({reason})" if reason else ""}, and not all of its '
            'tasks are completed: without somebody\'s doing they will not be.'
            + (f'\n  {error.code}{with_values(error.message, error.details)}' if error else ''))

    def _check_pool(self, pool: batchmodels.CloudPool, nodes: list[batchmodels.ComputeNode]) -> None:
        failed = [node for node in nodes if node.state == 'starttaskfailed']
        if failed:
            # What failed on one node would fail on the next; and this one costs money while it does nothing.
            others = f', and on {len(failed) - 1} more of {len(nodes)} nodes' if len(failed) > 1 else ''
            raise WaitError('\n'.join([
                f'The start task failed on node {failed[0].id}{others}, so that no task can run there.',
                *([f'  {explain(failed[0].start_task_info)}'] if failed[0].start_task_info else ()),
                *self._start_task_output(pool.id, failed[0]), _ON_START_TASK]))
        if pool.state == 'deleting':
            raise WaitError(f'Pool [{pool.id}] is being deleted, and not all tasks are completed: somebody else has '
                            'done that.')
        target = (pool.target_dedicated_nodes or 0) + (pool.target_low_priority_nodes or 0)
        shortfall = [printable(f'  {error.code}{with_values(error.message, error.values)}')
                     for error in pool.resize_errors or ()]
        if any(node.state not in _NODE_STATES_WITHOUT_FUTURE for node in nodes):
            note = '\n'.join([f'  Pool [{pool.id}] has fewer nodes than it asked for, {len(nodes)} of {target}; the '
                              'tasks take longer.', *shortfall])
            if shortfall and note not in self._noted:
                self._noted.add(note)
                self.say(f'{note}\n')
        elif pool.allocation_state == 'steady' and pool.enable_auto_scale is not True:
            errors = [printable(f'  Node {node.id}: {error.code}{with_values(error.message, error.error_details)}')
                      for node in nodes for error in node.errors or ()]
            unusable = any(node.state == 'unusable' for node in nodes)
            advice = _ON_QUOTA if any('quota' in line.lower() for line in shortfall) else _ON_ALLOCATION
            raise WaitError('\n'.join([
                f'Pool [{pool.id}] has no node that can run tasks, and none is on its way. '
                f'Nodes: {_listed(self._nodes)}, of {target} that it asked for.',
                *errors[:_MOST_NODE_ERRORS], *shortfall, *([advice] if shortfall or unusable else ())]))

    def _start_task_output(self, pool_id: str, node: batchmodels.ComputeNode) -> Iterator[str]:
        for name in ('startup/stdout.txt', 'startup/stderr.txt'):
            for line in end_of_file(self._client.file.get_properties_from_compute_node,
                                    self._client.file.get_from_compute_node, pool_id, node.id, name):
                yield f'  {line}'

    def _how_far(self, pool_id: str | None, nodes: list[batchmodels.ComputeNode]) -> Iterator[str]:
        tasks = self._client.job.get_task_counts(self._job_id).task_counts
        waiting = [node for node in nodes if node.state == 'waitingforstarttask']
        ready = any(node.state in ('running', 'idle') for node in nodes)
        phase = ('tasks were running' if ready else 'the start task was running' if waiting
                 else 'nodes were being allocated and started')
        yield f'  It ended while {phase}.'
        yield f'  Tasks: {tasks.active} active, {tasks.running} running, {tasks.completed} completed.'
        yield f'  Nodes: {_listed(self._nodes)}.'
        if pool_id and waiting and not ready:
            yield from self._start_task_output(pool_id, waiting[0])


def _listed(states: Counter[str]) -> str:
    """Returns '2 idle, 1 starting', the most frequent state first."""
    return ', '.join(f'{count} {state}' for state, count in states.most_common()) or 'none'
