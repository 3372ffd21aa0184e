"""What the service does not imitate is refused by name, by the SDKs' own ways to ask for it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from .client import Document, Refused, offered
from .workbench import MACHINE, Workbench, pool_document

_IMAGE = {'imageName': 'ubuntu'}
_SHARE = {'accountName': 'a', 'azureFileUrl': 'https://a.file.core.windows.net/s', 'accountKey': 'eA==',
          'relativeMountPath': 'share'}


@pytest.mark.parametrize(('properties', 'name', 'what'), [
    ({'enableAutoScale': True, 'autoScaleFormula': '$TargetDedicatedNodes=1'}, 'enableAutoScale', 'autoscale'),
    ({'applicationPackageReferences': [{'applicationId': 'a'}]}, 'applicationPackageReferences',
     'application packages'),
    ({'certificateReferences': [{'thumbprint': '0', 'thumbprintAlgorithm': 'sha1'}]}, 'certificateReferences',
     'certificates'),
    ({'mountConfiguration': [{'azureFileShareConfiguration': _SHARE}]}, 'mountConfiguration', 'mounts'),
    ({'userAccounts': [{'name': 'me', 'password': 'x'}]}, 'userAccounts', 'user accounts'),
    ({'networkConfiguration': {'subnetId': '/x'}}, 'networkConfiguration', 'networks'),
    ({'virtualMachineConfiguration': {**MACHINE, 'containerConfiguration': {'type': 'dockerCompatible'}}},
     'virtualMachineConfiguration.containerConfiguration', 'containers'),
    ({'virtualMachineConfiguration': {**MACHINE, 'dataDisks': [{'lun': 0, 'diskSizeGB': 1}]}},
     'virtualMachineConfiguration.dataDisks', 'data disks'),
    ({'startTask': {'commandLine': 'true', 'containerSettings': _IMAGE}}, 'startTask.containerSettings', 'containers'),
])
def test_property_of_a_pool_is_refused_by_name(client, new_id, properties: Document, name: str, what: str) -> None:
    pool_id = new_id('pool')
    document = {**pool_document(pool_id), **properties}
    if 'enableAutoScale' in properties:
        del document['targetDedicatedNodes']
    with pytest.raises(Refused, match=f'^400 UnsupportedProperty: .*{what}') as refusal:
        client.add_pool(document)
    assert refusal.value.values['PropertyName'] == name
    assert client.pool_exists(pool_id) is False


@pytest.mark.parametrize(('properties', 'name', 'what'), [
    ({'jobManagerTask': {'id': 'manager', 'commandLine': 'true'}}, 'jobManagerTask', 'job manager tasks'),
    ({'poolInfo': {'autoPoolSpecification': {'poolLifetimeOption': 'job'}}}, 'poolInfo.autoPoolSpecification',
     'auto pools'),
])
def test_property_of_a_job_is_refused_by_name(empty_bench, properties: Document, name: str, what: str) -> None:
    with pytest.raises(Refused, match=f'^400 UnsupportedProperty: .*{what}') as refusal:
        empty_bench.add_job(**properties)
    assert refusal.value.values['PropertyName'] == name


@pytest.mark.parametrize(('properties', 'name', 'what'), [
    ({'multiInstanceSettings': {'numberOfInstances': 2, 'coordinationCommandLine': 'true'}}, 'multiInstanceSettings',
     'multi-instance tasks'),
    ({'containerSettings': _IMAGE}, 'containerSettings', 'containers'),
    ({'applicationPackageReferences': [{'applicationId': 'a'}]}, 'applicationPackageReferences',
     'application packages'),
    ({'userIdentity': {'username': 'me'}}, 'userIdentity.username', 'user accounts'),
    ({'resourceFiles': [{'autoStorageContainerName': 'c'}]}, 'resourceFiles[0].autoStorageContainerName',
     'auto storage'),
])
def test_property_of_a_task_is_refused_by_name(empty_bench, properties: Document, name: str, what: str) -> None:
    empty_bench.add_job()
    with pytest.raises(Refused, match=f'^400 UnsupportedProperty: .*{what}') as refusal:
        empty_bench.add('task', 'true', **properties)
    assert refusal.value.values['PropertyName'] == name
    assert empty_bench.task_ids() == []


def _node(bench: Workbench) -> tuple[str, str]:
    """The ids of a pool and of a node in it."""
    return bench.pool_id, bench.wait_for_nodes('idle')[0]['id']


_FORMULA = {'autoScaleFormula': '$TargetDedicatedNodes=1'}
_SCHEDULE = {'schedule': {'recurrenceInterval': timedelta(hours=1)},
             'jobSpecification': {'poolInfo': {'poolId': 'pool'}}}
_CERTIFICATE = ('sha1', '0123456789')

_REFUSED: dict[str, tuple[str, Callable[[Workbench], tuple[Any, ...]]]] = {
    'enable_autoscale': ('autoscale', lambda bench: (bench.pool_id, _FORMULA)),
    'disable_autoscale': ('autoscale', lambda bench: (bench.pool_id,)),
    'evaluate_autoscale': ('autoscale', lambda bench: (bench.pool_id, _FORMULA)),
    'add_job_schedule': ('job schedules', lambda bench: ({'id': 'schedule', **_SCHEDULE},)),
    'add_certificate': ('certificates', lambda bench: (
        {'thumbprintAlgorithm': 'sha1', 'thumbprint': '0123456789', 'data': 'eA=='},)),
    'add_node_user': ('node users', lambda bench: (*_node(bench), {'name': 'me', 'password': 'x'})),
    'update_node_user': ('node users', lambda bench: (*_node(bench), 'me', {'password': 'x'})),
    'delete_node_user': ('node users', lambda bench: (*_node(bench), 'me')),
    'get_remote_login': ('remote login', _node),
    'get_remote_desktop': ('remote login', _node),
    'upload_node_logs': ('logs', lambda bench: (*_node(bench), {
        'containerUrl': 'https://a.blob.core.windows.net/c', 'startTime': bench.pool()['creationTime']})),
    'get_node_extension': ('extensions', lambda bench: (*_node(bench), 'extension')),
    'deallocate_node': ('deallocated nodes', lambda bench: (*_node(bench), {'nodeDeallocateOption': 'requeue'})),
    'start_node': ('deallocated nodes', _node),
}

_MISSING: dict[str, tuple[str, tuple[Any, ...]]] = {
    'get_application': ('ApplicationNotFound', ('application',)),
    'get_job_schedule': ('JobScheduleNotFound', ('schedule',)),
    'patch_job_schedule': ('JobScheduleNotFound', ('schedule', {})),
    'update_job_schedule': ('JobScheduleNotFound', ('schedule', _SCHEDULE)),
    'disable_job_schedule': ('JobScheduleNotFound', ('schedule',)),
    'enable_job_schedule': ('JobScheduleNotFound', ('schedule',)),
    'terminate_job_schedule': ('JobScheduleNotFound', ('schedule',)),
    'delete_job_schedule': ('JobScheduleNotFound', ('schedule',)),
    'list_jobs_of_schedule': ('JobScheduleNotFound', ('schedule',)),
    'get_certificate': ('CertificateNotFound', _CERTIFICATE),
    'delete_certificate': ('CertificateNotFound', _CERTIFICATE),
    'cancel_certificate_deletion': ('CertificateNotFound', _CERTIFICATE),
}


@pytest.mark.parametrize('operation', list(filter(offered, _REFUSED)))
def test_operation_is_refused_by_name(bench, operation) -> None:
    what, arguments = _REFUSED[operation]
    with pytest.raises(Refused, match=f'^400 .*{what}'):
        getattr(bench.client, operation)(*arguments(bench))


@pytest.mark.parametrize('operation', list(filter(offered, _MISSING)))
def test_what_cannot_exist_here_is_not_found(client, operation) -> None:
    code, arguments = _MISSING[operation]
    with pytest.raises(Refused, match=f'^404 {code}: The specified .* does not exist'):
        getattr(client, operation)(*arguments)


@pytest.mark.parametrize('operation', list(filter(offered, [
    'list_applications', 'list_certificates', 'list_job_schedules', 'list_usage_metrics'])))
def test_list_of_what_cannot_exist_here_is_empty(client, operation) -> None:
    assert getattr(client, operation)() == []


def test_job_schedule_does_not_exist(client) -> None:
    assert client.job_schedule_exists('schedule') is False


def test_node_has_no_extensions(bench) -> None:
    assert bench.client.list_node_extensions(*_node(bench)) == []
