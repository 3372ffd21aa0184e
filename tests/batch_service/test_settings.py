"""The cloud's slowness and troubles, each on a service that was asked for it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from azure.batch import models

from common.batch_service.settings import Settings, add_settings, arguments_for, settings_from

from .workbench import ServiceProcess, Workbench, wait_until


@pytest.fixture
def troubled(tmp_path: Path) -> Iterator[Callable[..., Workbench]]:
    """Starts a service with some options, and gives a workbench on it."""
    services = []

    def start(*options: str) -> Workbench:
        services.append(ServiceProcess(tmp_path, *options))
        return Workbench(services[-1].client(), 'pool', 'job')
    yield start
    for service in services:
        assert service.stop() == 0


def test_core_quota_leaves_the_pool_short_and_says_so(troubled) -> None:
    bench = troubled('--core-quota', '4')
    bench.add_pool(nodes=3)
    bench.wait_for_nodes('idle', 'idle')
    pool = bench.client.pool.get('pool')
    assert pool.allocation_state == models.AllocationState.steady
    assert (pool.target_dedicated_nodes, pool.current_dedicated_nodes) == (3, 2)
    error, = pool.resize_errors
    assert error.code == 'AccountCoreQuotaReached'
    assert error.message == 'The specified account has reached core quota'


def test_pool_within_its_quota_has_no_resize_errors(troubled) -> None:
    bench = troubled('--core-quota', '4')
    bench.add_pool(nodes=2)
    bench.wait_for_nodes('idle', 'idle')
    assert bench.client.pool.get('pool').resize_errors is None


def test_slow_allocation_can_be_watched_and_stopped(troubled) -> None:
    bench = troubled('--allocation-seconds', '600')
    bench.add_pool(nodes=2)
    assert bench.client.pool.get('pool').allocation_state == models.AllocationState.resizing
    with pytest.raises(models.BatchErrorException) as error:
        bench.client.pool.resize('pool', models.PoolResizeParameter(target_dedicated_nodes=1))
    assert error.value.error.code == 'PoolBeingResized'
    bench.client.pool.stop_resize('pool')
    wait_until(lambda: bench.client.pool.get('pool').allocation_state == models.AllocationState.steady)
    assert bench.client.pool.get('pool').resize_errors[0].code == 'ResizeStopped'
    assert bench.nodes() == []


def test_slow_node_is_seen_before_it_is_up(troubled) -> None:
    bench = troubled('--node-boot-seconds', '0.5')
    bench.add_pool()
    bench.wait_for_nodes('creating')
    bench.wait_for_nodes('idle')


@pytest.mark.parametrize(('restart', 'code'), [('reboot', 'NodeBeingRebooted'), ('reimage', 'NodeBeingReimaged')])
def test_node_that_is_not_up_is_not_restarted(troubled, restart: str, code: str) -> None:
    bench = troubled('--node-boot-seconds', '0.5')
    bench.add_pool()
    node, = bench.wait_for_nodes('creating')
    with pytest.raises(models.BatchErrorException) as error:
        bench.client.compute_node.reboot('pool', node.id)
    assert error.value.error.code == 'NodeBeingCreated'
    bench.wait_for_nodes('idle')
    getattr(bench.client.compute_node, restart)('pool', node.id)
    with pytest.raises(models.BatchErrorException) as error:
        bench.client.compute_node.reboot('pool', node.id)
    assert error.value.error.code == code


def test_slow_node_can_be_deleted_before_it_is_up(troubled) -> None:
    bench = troubled('--node-boot-seconds', '600')
    bench.add_pool()
    bench.wait_for_nodes('creating')
    bench.client.pool.delete('pool')
    wait_until(lambda: not bench.client.pool.exists('pool'))


def test_deleted_ids_stay_taken_for_a_while(troubled) -> None:
    bench = troubled('--deletion-seconds', '0.7')
    bench.add_pool()
    bench.add_job()
    bench.client.job.delete('job')
    bench.client.pool.delete('pool')
    for add, code in ((bench.add_pool, 'PoolBeingDeleted'), (bench.add_job, 'JobBeingDeleted')):
        with pytest.raises(models.BatchErrorException) as error:
            add()
        assert error.value.error.code == code
    wait_until(lambda: not list(bench.client.pool.list()) and not list(bench.client.job.list()))
    bench.add_pool()
    bench.add_job()


def test_task_counts_lag(troubled) -> None:
    bench = troubled('--counts-lag-seconds', '2')
    bench.add_pool()
    bench.add_job()
    bench.run('quick', 'true')
    counts = bench.client.job.get_task_counts('job').task_counts
    assert (counts.active, counts.running, counts.completed) != (0, 0, 1)
    wait_until(lambda: bench.client.job.get_task_counts('job').task_counts.completed == 1)


def test_unusable_node_takes_no_tasks(troubled) -> None:
    bench = troubled('--unusable-nodes', '1')
    bench.add_pool(nodes=2)
    bench.add_job()
    nodes = bench.wait_for_nodes('idle', 'unusable')
    unusable, = (node for node in nodes if node.state == models.ComputeNodeState.unusable)
    assert unusable.errors[0].code == 'NodeUnusable'
    assert bench.run('task', 'true').node_info.node_id != unusable.id


def test_busy_service_asks_to_try_again(troubled) -> None:
    bench = troubled('--busy-share', '1')
    with pytest.raises(models.BatchErrorException) as error:
        bench.client.pool.patch('pool', models.PoolPatchParameter())
    assert error.value.response.status_code in (429, 503)
    assert error.value.error.code in ('TooManyRequests', 'ServerBusy')
    assert error.value.response.headers['Retry-After'] == '1'


_OUT_OF_RANGE = [
    ('core_quota', '-1', '-1 is not a whole number from 0 to 1000000'),
    ('core_quota', '1000001', '1000001 is not a whole number from 0 to 1000000'),
    ('unusable_nodes', '1.5', "'1.5' is not a whole number from 0 to 1000000"),
    ('busy_share', '2', '2.0 is not a number from 0 to 1'),
    ('busy_share', 'nan', 'nan is not a number from 0 to 1'),
    ('busy_share', 'often', "'often' is not a number from 0 to 1"),
    ('allocation_seconds', '-0.1', '-0.1 is not a number from 0 to 86400'),
    ('node_boot_seconds', 'inf', 'inf is not a number from 0 to 86400'),
    ('deletion_seconds', '1e400', 'inf is not a number from 0 to 86400'),
    ('counts_lag_seconds', '86401', '86401.0 is not a number from 0 to 86400'),
]


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='program')
    add_settings(parser)
    return parser


@pytest.mark.parametrize(('name', 'text', 'refusal'), _OUT_OF_RANGE)
def test_option_out_of_range_is_refused_with_the_range(parser, capsys, name: str, text: str, refusal: str) -> None:
    option = f'--{name.replace("_", "-")}'
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([option, text])
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f'program: error: argument {option}: {refusal}'


@pytest.mark.parametrize(('name', 'text', 'refusal'), _OUT_OF_RANGE)
def test_setting_out_of_range_is_refused_with_the_same_words(name: str, text: str, refusal: str) -> None:
    value = text if refusal.startswith("'") else type(getattr(Settings(), name))(text)
    with pytest.raises(ValueError) as error:
        Settings(**{name: value})
    assert str(error.value) == f'{name}: {refusal}'


def test_help_tells_the_range(parser) -> None:
    assert 'is answered with 429 or 503: 0 to 1' in ' '.join(parser.format_help().split())


def test_settings_come_through_a_command_line(parser) -> None:
    settings = Settings(86_400, 0.5, 1, 2, 1_000_000, 3, 1)
    assert settings_from(parser.parse_args(arguments_for(settings))) == settings
