"""Against names that are taken: by what an earlier run has left, or by somebody else's pool or job."""
from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from pathlib import Path

import azure.batch.models as batchmodels
from azure.batch import BatchServiceClient

from common.guards.patience import LONG, soon_given_up, wait_until
from common.guards.run import Run, in_words
from common.helpers import can_ask, query_yes_no, sas_signing_key

_COMING_UP = ('creating', 'starting', 'rebooting', 'reimaging', 'waitingforstarttask')
_BROKEN = ('starttaskfailed', 'unusable')
# https://learn.microsoft.com/rest/api/batchservice/pool/remove-nodes
_MOST_REMOVED_AT_ONCE = 100


class NameTakenError(RuntimeError):
    """Something of the same name is in the way; the text says what, and what to do."""


def recipe(task_script: Path, start_task: Sequence[str], publisher: str, offer: str, sku: str, vm_size: str,
           task_slots: int) -> list[batchmodels.MetadataItem]:
    """Returns the metadata by which a later run knows how the nodes of a pool were made.

    start_task are the commands of the start task. The number of nodes does not count: a pool of any size will do.
    """
    commands, script = '\n'.join(start_task).encode(), task_script.read_bytes()
    ingredients = {'image': f'{publisher} {offer} {sku}', 'VM size': vm_size, 'number of task slots': str(task_slots),
                   'start task': hashlib.sha256(commands).hexdigest(),
                   'task script': hashlib.sha256(script).hexdigest()}
    return [batchmodels.MetadataItem(name=name, value=value.lower()) for name, value in ingredients.items()]


def make_names_free(run: Run, pool_recipe: Sequence[batchmodels.MetadataItem], *, replace_pool: bool) -> bool:
    """Makes way for the run, and is its first contact with both services: a wrong setting shows here, within seconds.

    Waits for what is still being deleted, replaces a job that has ended, and deletes the results of an earlier run,
    which must not pass for results of this one. A pool of the same recipe is used again if the reader says so; then
    returns True. A pool or a job that is in the way otherwise is deleted only if the reader says so, or replace_pool.

    Raises NameTakenError when one of them stays, and what the clients raise.
    """
    with soon_given_up(run.batch):
        run.find('job')
        # With Entra ID, signing takes a right of its own.
        sas_signing_key(run.blobs, datetime.datetime.now(datetime.timezone.utc))
        run.blob_names(run.container_names[-1])
    # The job first: while another run has it, its pool and its blobs are in use.
    _replace_job(run)
    reuses_pool = _uses_pool_again(run, pool_recipe, replace_pool)
    for container_name in run.container_names:
        run.delete_blobs(container_name)
    return reuses_pool


def _replace_job(run: Run) -> None:
    job = run.find('job')
    if job is not None and job.state not in ('completed', 'terminating', 'deleting'):
        _ask_to_delete(run, f'Job [{job.id}] exists and is {in_words(job.state)}, so another run may be using it',
                       'Delete it and its tasks?',
                       'wait until it has ended, or set another _JOB_ID at the top of python_tutorial_client.py')
    _delete(run, 'job')


def _uses_pool_again(run: Run, pool_recipe: Sequence[batchmodels.MetadataItem], replace_pool: bool) -> bool:
    pool, what = run.find('pool'), f'Pool [{run.ids["pool"]}] exists'
    if pool is not None and pool.state != 'deleting' and not replace_pool:
        of_pool = {item.name: item.value for item in pool.metadata or ()}
        others = [item.name for item in pool_recipe if of_pool.get(item.name) != item.value]
        if not others and query_yes_no(f'{what}. Reuse it?', ask=run.ask) == 'yes':
            return True
        reason = f'was made with another {", ".join(others)}' if others else 'you chose not to reuse it'
        _ask_to_delete(run, f'{what}, and {reason}', 'Delete it with its nodes, and create it anew?',
                       'run again with --replace-pool, which deletes it with its nodes and creates it anew, or set '
                       'another _POOL_ID at the top of python_tutorial_client.py')
    _delete(run, 'pool')
    return False


def _ask_to_delete(run: Run, what: str, question: str, what_to_do: str) -> None:
    """Returns if the reader agrees. Raises NameTakenError, which does not say again what the question has said."""
    asked = run.ask and can_ask()
    if not asked or query_yes_no(f'{what}. {question}', 'no') == 'no':
        raise NameTakenError(f'{"It stays" if asked else what}: {what_to_do}.')


def _delete(run: Run, kind: str) -> None:
    """Waits until the job or the pool is gone, if there is one; deletes it if nobody else does."""
    def is_gone() -> bool:
        found = run.find(kind)
        if found is not None and found.state != 'deleting':
            run.operations[kind].delete(found.id)
        return found is None

    what = f'{kind} [{run.ids[kind]}] of an earlier run'
    if not wait_until(is_gone, f'Waiting for the {what} to be deleted...'):
        raise NameTakenError(f'The {what} is still being deleted after {LONG}: try again later.')


def renew_pool(client: BatchServiceClient, pool_id: str, resource_files: list[batchmodels.ResourceFile],
               node_count: int) -> None:
    """Makes a pool of an earlier run ready: its start task gets resource files that it can read, broken nodes go.

    The SAS of the run that created the pool expires, and its blob is gone: a node that has restarted since then has
    failed for that reason alone. If fewer than node_count nodes are left, the pool is resized to that.
    """
    print(f'Reusing pool [{pool_id}]...')
    start_task = client.pool.get(pool_id).start_task
    start_task.resource_files = resource_files
    client.pool.patch(pool_id, batchmodels.PoolPatchParameter(start_task=start_task))

    nodes = _settled_nodes(client, pool_id)
    while broken := [node.id for node in nodes if node.state in _BROKEN]:
        print(f'  {len(broken)} of the {len(nodes)} nodes of pool [{pool_id}] are broken: removing them...')
        client.pool.remove_nodes(pool_id, batchmodels.NodeRemoveParameter(node_list=broken[:_MOST_REMOVED_AT_ONCE]))
        nodes = _settled_nodes(client, pool_id)
    if len(nodes) < node_count:
        print(f'  Resizing pool [{pool_id}] from {len(nodes)} to {node_count} nodes...')
        client.pool.resize(pool_id, batchmodels.PoolResizeParameter(target_dedicated_nodes=node_count))


def _settled_nodes(client: BatchServiceClient, pool_id: str) -> list[batchmodels.ComputeNode]:
    """Waits until the pool is not being resized, and none of its nodes is on its way up; returns the nodes."""
    nodes: list[batchmodels.ComputeNode] = []

    def settled() -> bool:
        steady = client.pool.get(pool_id).allocation_state == 'steady'
        nodes[:] = client.compute_node.list(
            pool_id, compute_node_list_options=batchmodels.ComputeNodeListOptions(select='id,state'))
        return steady and not any(node.state in _COMING_UP for node in nodes)

    if not wait_until(settled, f'  Waiting for the nodes of pool [{pool_id}]...'):
        raise NameTakenError(f'The nodes of pool [{pool_id}] are not ready after {LONG}: run again with '
                             '--replace-pool, or set another _POOL_ID at the top of python_tutorial_client.py.')
    return nodes
