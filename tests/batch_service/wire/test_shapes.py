from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.batch_service.wire import documents
from common.batch_service.errors import BatchError
from common.batch_service.wire.shapes import read

POOL = {'id': 'p', 'vmSize': 'standard_d2s_v5', 'virtualMachineConfiguration': {
    'imageReference': {'publisher': 'a', 'offer': 'b', 'sku': 'c'}, 'nodeAgentSKUId': 'd'}}
JOB = {'id': 'j', 'poolInfo': {'poolId': 'p'}}
TASK = {'id': 't', 'commandLine': 'true'}

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=8)


@pytest.mark.parametrize(('shape', 'document'), [
    (documents.POOL, POOL), (documents.JOB, JOB), (documents.TASK, TASK)])
def test_any_value_of_any_property_is_read_or_refused(shape, document) -> None:
    @given(st.sampled_from(sorted(shape)), ANYTHING)
    def check(name: str, value: object) -> None:
        try:
            read(shape, {**document, name: value})
        except BatchError as error:
            assert 400 <= error.status < 500
    check()


@pytest.mark.parametrize(('shape', 'document', 'code', 'name'), [
    (documents.POOL, {**POOL, 'id': 'a/b'}, 'InvalidPropertyValue', 'id'),
    (documents.POOL, {**POOL, 'id': 'x' * 65}, 'InvalidPropertyValue', 'id'),
    (documents.POOL, {**POOL, 'resizeTimeout': 'PT1M'}, 'InvalidPropertyValue', 'resizeTimeout'),
    (documents.POOL, {**POOL, 'targetDedicatedNodes': -1}, 'InvalidPropertyValue', 'targetDedicatedNodes'),
    (documents.POOL, {**POOL, 'startTask': {}}, 'MissingRequiredProperty', 'startTask.commandLine'),
    (documents.POOL, {**POOL, 'enableAutoScale': True}, 'UnsupportedProperty', 'enableAutoScale'),
    (documents.JOB, {**JOB, 'priority': 1001}, 'OutOfRangePriority', 'priority'),
    (documents.JOB, {**JOB, 'metadata': [{'name': '', 'value': 'x'}]}, 'EmptyMetadataKey', 'metadata[0].name'),
    (documents.TASK, {**TASK, 'dependsOn': {'taskIds': ['x' * 64] * 1001}}, 'TaskDependencyListTooLong',
     'dependsOn.taskIds'),
    (documents.JOB, {**JOB, 'maxParallelTasks': 0}, 'InvalidPropertyValue', 'maxParallelTasks'),
    (documents.TASK, {**TASK, 'constraints': {'maxWallClockTime': '-PT5M'}}, 'InvalidPropertyValue',
     'constraints.maxWallClockTime'),
    (documents.REMOVE_NODES, {'nodeList': []}, 'InvalidPropertyValue', 'nodeList'),
    (documents.JOB, {**JOB, 'jobManagerTask': {'id': 'm'}}, 'UnsupportedProperty', 'jobManagerTask'),
    (documents.JOB, {**JOB, 'poolInfo': {'autoPoolSpecification': {'poolLifetimeOption': 'job'}}},
     'UnsupportedProperty', 'poolInfo.autoPoolSpecification'),
    (documents.TASK, {**TASK, 'containerSettings': {'imageName': 'x'}}, 'UnsupportedProperty', 'containerSettings'),
    (documents.TASK, {**TASK, 'multiInstanceSettings': {'coordinationCommandLine': 'x'}}, 'UnsupportedProperty',
     'multiInstanceSettings'),
    (documents.TASK, {**TASK, 'commandLine': 'echo \ud800'}, 'InvalidPropertyValue', 'commandLine'),
    (documents.TASK, {**TASK, 'commandLine': 'echo \0'}, 'InvalidPropertyValue', 'commandLine'),
    (documents.TASK, {**TASK, 'resourceFiles': [{'filePath': 'x'}]}, 'InvalidPropertyValue', 'resourceFiles[0]'),
    (documents.TASK, {**TASK, 'resourceFiles': [{'httpUrl': 'x'}]}, 'MissingRequiredProperty',
     'resourceFiles[0].filePath'),
    (documents.TASK, {**TASK, 'resourceFiles': [{'httpUrl': 'x', 'filePath': 'y', 'fileMode': '9'}]},
     'InvalidPropertyValue', 'resourceFiles[0].fileMode'),
])
def test_what_is_wrong_is_named(shape, document, code: str, name: str) -> None:
    with pytest.raises(BatchError) as error:
        read(shape, document)
    assert (error.value.code, error.value.values['PropertyName']) == (code, name)


@pytest.mark.parametrize(('shape', 'document', 'name', 'value'), [
    (documents.POOL, POOL, 'networkConfiguration', {'dynamicVNetAssignmentScope': 'none'}),
    (documents.POOL, POOL, 'networkConfiguration', {
        'subnetId': '', 'publicIPAddressConfiguration': {'provision': 'batchManaged', 'ipAddressIds': []}}),
    (documents.POOL, POOL, 'mountConfiguration', []), (documents.POOL, POOL, 'userAccounts', {}),
    (documents.POOL, POOL, 'autoScaleFormula', ''), (documents.JOB, JOB, 'allowTaskPreemption', False),
    (documents.TASK, TASK, 'authenticationTokenSettings', {'access': []}),
    (documents.TASK, TASK, 'containerSettings', None)])
def test_what_changes_nothing_is_no_reason_to_refuse(shape, document, name: str, value: object) -> None:
    assert read(shape, {**document, name: value}) == read(shape, document)


@pytest.mark.parametrize(('shape', 'document', 'name', 'value'), [
    (documents.POOL, POOL, 'networkConfiguration', {'dynamicVNetAssignmentScope': 'job'}),
    (documents.POOL, POOL, 'networkConfiguration', {'subnetId': 'x'}),
    (documents.POOL, POOL, 'enableAutoScale', 0), (documents.POOL, POOL, 'enableAutoScale', 'true'),
    (documents.TASK, TASK, 'authenticationTokenSettings', {'access': ['job']})])
def test_what_would_change_something_is_refused(shape, document, name: str, value: object) -> None:
    with pytest.raises(BatchError) as error:
        read(shape, {**document, name: value})
    assert error.value.code == 'UnsupportedProperty'


@pytest.mark.parametrize(('document', 'name'), [
    ({**POOL, 'resourceTags': {'a': '\ud800'}}, 'resourceTags.a'),
    ({**POOL, 'resourceTags': {'\0': 'a'}}, 'resourceTags'), ({**POOL, 'resourceTags': 0}, 'resourceTags'),
    ({**POOL, 'upgradePolicy': {'a': [1 << 63]}}, 'upgradePolicy.a[0]'),
    ({**POOL, 'upgradePolicy': []}, 'upgradePolicy')])
def test_what_is_only_echoed_can_be_kept_and_read_again(document, name: str) -> None:
    with pytest.raises(BatchError) as error:
        read(documents.POOL, document)
    assert (error.value.code, error.value.values['PropertyName']) == ('InvalidPropertyValue', name)


@pytest.mark.parametrize('number', [1 << 31, -(1 << 31) - 1, 1 << 64, 10 ** 90, '9' * 18, '١', 1.0, True])
def test_numbers_have_32_bits(number: object) -> None:
    with pytest.raises(BatchError) as error:
        read(documents.TASK, {**TASK, 'dependsOn': {'taskIdRanges': [{'start': number, 'end': 1}]}})
    assert error.value.code == 'InvalidPropertyValue'


def test_refused_property_says_what_is_not_imitated() -> None:
    with pytest.raises(BatchError, match='does not imitate mounts'):
        read(documents.POOL, {**POOL, 'mountConfiguration': [{'nfsMountConfiguration': {}}]})


def test_numbers_may_come_as_text() -> None:
    assert read(documents.POOL, {**POOL, 'targetDedicatedNodes': '2'})['targetDedicatedNodes'] == 2


def test_defaults_are_not_shared() -> None:
    first, second = read(documents.TASK, TASK), read(documents.TASK, TASK)
    first['userIdentity']['autoUser']['scope'] = 'task'
    assert second['userIdentity']['autoUser']['scope'] == 'pool'
