"""Whether a pool that is there already can be used again, and what it needs for that."""
from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import azure.batch.models as batchmodels
from azure.batch import BatchServiceClient
from azure.batch.models import AllocationState, ComputeNodeState

from common.helpers import query_yes_no
from common.patience import looks
from common.taken_names import NameTakenError

# The task script is on the nodes, where a client does not see it: the pool has to remember which one.
_TASK_SCRIPT = 'python-tutorial-task-sha256'

_COMING_UP = (ComputeNodeState.creating, ComputeNodeState.starting, ComputeNodeState.rebooting,
              ComputeNodeState.reimaging, ComputeNodeState.waiting_for_start_task)
_BROKEN = (ComputeNodeState.start_task_failed, ComputeNodeState.unusable)
_PATIENCE = datetime.timedelta(minutes=15)
_LONGEST_PAUSE = datetime.timedelta(seconds=5)
# https://learn.microsoft.com/rest/api/batchservice/pool/remove-nodes
_MOST_NODES_REMOVED_AT_ONCE = 100


def mark_of_task_script(task_script: Path) -> batchmodels.MetadataItem:
    """Returns the metadata that tells of a pool which task script its nodes have."""
    return batchmodels.MetadataItem(name=_TASK_SCRIPT, value=hashlib.sha256(task_script.read_bytes()).hexdigest())


def reuse_existing_pool(batch_service_client: BatchServiceClient, wanted: batchmodels.PoolAddParameter, *,
                        ask: bool) -> bool:
    """Makes the existing pool of this id ready for another run, if it is like the wanted one.

    Asks the reader, and returns False when the pool is to be deleted and created anew instead. The number of
    nodes may differ. Raises NameTakenError when the pool can neither be reused nor be deleted.
    """
    pool = batch_service_client.pool.get(wanted.id)
    reasons = list(_differences(pool, wanted))
    if not reasons:
        if query_yes_no(f'  Pool [{wanted.id}] exists. Reuse it?', ask=ask) == 'yes':
            _make_ready(batch_service_client, wanted)
            return True
        reasons = ['you chose not to']
    reason = ', '.join(reasons)
    print(f'  Pool [{wanted.id}] exists, and is not reused: {reason}.')
    if query_yes_no('  Delete it with its nodes, and create it anew?', 'no', ask=ask) == 'no':
        raise NameTakenError(f'Pool [{wanted.id}] exists, and is not reused: {reason}. Delete it, or set another '
                             '_POOL_ID at the top of python_tutorial_client.py.')
    return False


def _differences(pool: batchmodels.CloudPool, wanted: batchmodels.PoolAddParameter) -> Iterator[str]:
    if _image(pool) != _image(wanted):
        yield f'its image is {_image(pool)}, not {_image(wanted)}'
    if pool.vm_size.lower() != wanted.vm_size.lower():
        yield f'its VM size is {pool.vm_size.lower()}, not {wanted.vm_size.lower()}'
    if pool.start_task is None or pool.start_task.command_line != wanted.start_task.command_line:
        yield 'its start task is another one'
    scripts = [item.value for item in pool.metadata or () if item.name == _TASK_SCRIPT]
    if scripts != [item.value for item in wanted.metadata if item.name == _TASK_SCRIPT]:
        yield 'its nodes have another task script'


def _image(pool: batchmodels.CloudPool | batchmodels.PoolAddParameter) -> str:
    machine = pool.virtual_machine_configuration
    if machine is None:
        return 'none of a virtual machine'
    image = machine.image_reference
    if image.virtual_machine_image_id:
        return image.virtual_machine_image_id
    return f'{image.publisher} {image.offer} {image.sku} ({machine.node_agent_sku_id})'.lower()


def _make_ready(client: BatchServiceClient, wanted: batchmodels.PoolAddParameter) -> None:
    """Gives the pool a start task that can read its resource file again, and replaces nodes that are broken.

    The SAS of the run that created the pool expires, and its blob is gone: a node that has restarted since then
    has failed for that reason alone.
    """
    client.pool.patch(wanted.id, batchmodels.PoolPatchParameter(start_task=wanted.start_task))

    nodes = _settled_nodes(client, wanted.id)
    broken = [node.id for node in nodes if node.state in _BROKEN]
    for begin in range(0, len(broken), _MOST_NODES_REMOVED_AT_ONCE):
        client.pool.remove_nodes(wanted.id, batchmodels.NodeRemoveParameter(
            node_list=broken[begin:begin + _MOST_NODES_REMOVED_AT_ONCE]))
        _settled_nodes(client, wanted.id)
    if broken or not nodes:
        target = max(len(nodes), wanted.target_dedicated_nodes)
        print(f'  {len(broken)} of the {len(nodes)} nodes of pool [{wanted.id}] are broken: resizing it to {target}...')
        client.pool.resize(wanted.id, batchmodels.PoolResizeParameter(target_dedicated_nodes=target))


def _settled_nodes(client: BatchServiceClient, pool_id: str) -> list[batchmodels.ComputeNode]:
    """Waits until the pool is not being resized, and none of its nodes is on its way up; returns the nodes."""
    nodes: list[batchmodels.ComputeNode] = []

    def settled() -> bool:
        nonlocal nodes
        steady = client.pool.get(pool_id).allocation_state == AllocationState.steady
        nodes = list(client.compute_node.list(
            pool_id, compute_node_list_options=batchmodels.ComputeNodeListOptions(select='id,state')))
        return steady and not any(node.state in _COMING_UP for node in nodes)

    if not _wait_until(settled, f'  Waiting for the nodes of pool [{pool_id}]...'):
        raise NameTakenError(f'The nodes of pool [{pool_id}] are not ready after {_PATIENCE}: delete it, or set '
                             'another _POOL_ID at the top of python_tutorial_client.py.')
    return nodes


def _wait_until(condition: Callable[[], bool], notice: str) -> bool:
    for waited in looks(_PATIENCE, _LONGEST_PAUSE):
        if condition():
            return True
        if not waited:
            print(notice)
    return False
