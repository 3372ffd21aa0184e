"""When an existing pool is used again, and what it gets for that."""
from __future__ import annotations

from pathlib import Path
from unittest.mock import MagicMock

import azure.batch.models as batchmodels
import pytest
from pytest_mock import MockerFixture

from common.pool_reuse import mark_of_task_script, reuse_existing_pool
from common.taken_names import NameTakenError


def pool_of(model: type, script: Path, **changes: object) -> batchmodels.CloudPool | batchmodels.PoolAddParameter:
    image = batchmodels.ImageReference(publisher='Canonical', offer='ubuntu-24_04-lts', sku='server')
    properties: dict[str, object] = {
        'id': 'mypool', 'vm_size': 'STANDARD_D2S_V5', 'target_dedicated_nodes': 2,
        'virtual_machine_configuration': batchmodels.VirtualMachineConfiguration(
            image_reference=image, node_agent_sku_id='batch.node.ubuntu 24.04'),
        'start_task': batchmodels.StartTask(command_line='prepare'), 'metadata': [mark_of_task_script(script)]}
    return model(**{**properties, **changes})


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / 'task.py'
    path.write_text('print("task")')
    return path


@pytest.fixture
def wanted(script: Path) -> batchmodels.PoolAddParameter:
    return pool_of(batchmodels.PoolAddParameter, script)


class Batch:
    """A Batch account with one pool, all of whose changes take no time."""

    def __init__(self, existing: batchmodels.CloudPool, *node_states: str) -> None:
        existing.allocation_state = 'steady'
        self.client = MagicMock()
        self.client.pool.get.return_value = existing
        self.nodes = [batchmodels.ComputeNode(id=f'node{number}', state=state)
                      for number, state in enumerate(node_states)]
        self.client.compute_node.list.side_effect = lambda *_, **__: list(self.nodes)
        self.client.pool.remove_nodes.side_effect = self._remove

    def _remove(self, pool_id: str, parameter: batchmodels.NodeRemoveParameter) -> None:
        self.nodes = [node for node in self.nodes if node.id not in parameter.node_list]


def test_a_pool_that_fits_is_reused_with_the_start_task_of_this_run(
        wanted: batchmodels.PoolAddParameter, script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The service gives names back in its own case; the number of nodes may differ.
    batch = Batch(pool_of(batchmodels.CloudPool, script, vm_size='standard_d2s_v5', target_dedicated_nodes=5),
                  'idle', 'running')

    assert reuse_existing_pool(batch.client, wanted, ask=False) is True

    assert capsys.readouterr().out == '  Pool [mypool] exists. Reuse it? [Y/n] yes\n'
    pool_id, patch = batch.client.pool.patch.call_args.args
    assert (pool_id, patch.start_task) == ('mypool', wanted.start_task)
    batch.client.pool.remove_nodes.assert_not_called()
    batch.client.pool.resize.assert_not_called()


@pytest.mark.parametrize('change, reason', [
    ({'vm_size': 'standard_a1_v2'}, 'its VM size is standard_a1_v2, not standard_d2s_v5'),
    ({'start_task': None}, 'its start task is another one'),
    ({'start_task': batchmodels.StartTask(command_line='another')}, 'its start task is another one'),
    ({'metadata': None}, 'its nodes have another task script'),
    ({'virtual_machine_configuration': None}, 'its image is none of a virtual machine, not canonical ubuntu-24_04-lts'),
    ({'virtual_machine_configuration': batchmodels.VirtualMachineConfiguration(
        image_reference=batchmodels.ImageReference(publisher='canonical', offer='ubuntu-24_04-lts', sku='minimal'),
        node_agent_sku_id='batch.node.ubuntu 24.04')}, 'its image is canonical ubuntu-24_04-lts minimal'),
])
def test_a_pool_that_does_not_fit_is_kept_and_named_with_the_reason(
        wanted: batchmodels.PoolAddParameter, script: Path, change: dict[str, object], reason: str) -> None:
    batch = Batch(pool_of(batchmodels.CloudPool, script, **change))

    with pytest.raises(NameTakenError) as raised:
        reuse_existing_pool(batch.client, wanted, ask=False)

    assert reason in str(raised.value) and '_POOL_ID' in str(raised.value)
    assert not batch.client.pool.patch.called and not batch.client.pool.delete.called


def test_a_pool_with_an_older_task_script_does_not_fit(wanted: batchmodels.PoolAddParameter, script: Path) -> None:
    script.write_text('print("newer")')

    with pytest.raises(NameTakenError, match='another task script'):
        reuse_existing_pool(Batch(pool_of(batchmodels.CloudPool, script)).client, wanted, ask=False)


def test_the_reader_may_have_the_pool_created_anew(wanted: batchmodels.PoolAddParameter, script: Path,
                                                   mocker: MockerFixture) -> None:
    mocker.patch('sys.stdin', MagicMock(closed=False, isatty=lambda: True))
    mocker.patch('builtins.input', side_effect=['n', 'y'])
    batch = Batch(pool_of(batchmodels.CloudPool, script), 'idle')

    assert reuse_existing_pool(batch.client, wanted, ask=True) is False

    batch.client.pool.patch.assert_not_called()


def test_broken_nodes_are_replaced(wanted: batchmodels.PoolAddParameter, script: Path) -> None:
    batch = Batch(pool_of(batchmodels.CloudPool, script), 'starttaskfailed', 'idle', 'unusable')

    assert reuse_existing_pool(batch.client, wanted, ask=False) is True

    assert [node.id for node in batch.nodes] == ['node1']
    assert batch.client.pool.resize.call_args.args[1].target_dedicated_nodes == 3


def test_a_pool_without_nodes_gets_some(wanted: batchmodels.PoolAddParameter, script: Path) -> None:
    batch = Batch(pool_of(batchmodels.CloudPool, script, target_dedicated_nodes=0))

    assert reuse_existing_pool(batch.client, wanted, ask=False) is True

    assert batch.client.pool.resize.call_args.args[1].target_dedicated_nodes == 2


def test_nodes_on_their_way_up_are_waited_for_before_they_are_judged(
        wanted: batchmodels.PoolAddParameter, script: Path, mocker: MockerFixture,
        capsys: pytest.CaptureFixture[str]) -> None:
    batch = Batch(pool_of(batchmodels.CloudPool, script), 'waitingforstarttask', 'idle')
    mocker.patch('time.sleep', lambda _: setattr(batch.nodes[0], 'state', 'starttaskfailed'))

    assert reuse_existing_pool(batch.client, wanted, ask=False) is True

    assert '  Waiting for the nodes of pool [mypool]...\n' in capsys.readouterr().out
    assert [node.id for node in batch.nodes] == ['node1']
