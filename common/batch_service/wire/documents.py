"""What a client may send for a pool, a job or a task: properties, limits, defaults.

Properties as in the models of azure-batch 14.2 and 15.1; limits from their docstrings and
https://learn.microsoft.com/azure/batch/batch-quota-limit; defaults as seen in recorded traffic of the service.
What the local service does not imitate is refused by name, never ignored; what makes no difference to a node that
is a directory, such as the kind of its disk, is kept and echoed.
"""

from __future__ import annotations

import copy
import re
from typing import Any

from ..errors import BatchError, invalid_property
from .body import MOST_TASKS
from .shapes import (BOOLEAN, ECHOED, ID, TEXT, Field, Shape, duration_of, integer, list_of, object_of, one_of,
                     only, read, refused, text)
from ..values import INFINITE

AUTO_USER = {'autoUser': {'scope': 'pool', 'elevationLevel': 'nonadmin'}}
TASK_RETENTION = 'P7D'

_NAMED_VALUES = list_of(object_of({'name': text(least=1)(required=True), 'value': TEXT(default='')}))
_METADATA_ITEM: Shape = {'name': TEXT(required=True), 'value': TEXT(required=True)}


def _metadata_item(value: Any, path: str) -> dict[str, Any]:
    item = read(_METADATA_ITEM, value, path + '.')
    if not item['name']:
        raise BatchError('EmptyMetadataKey', PropertyName=f'{path}.name')
    return item


_METADATA = list_of(Field(_metadata_item))
_PACKAGES = refused('application packages')
_CONTAINER = refused('containers')
_NETWORK = refused('virtual networks', unless=('none', 'batchmanaged'))
_RETRIES = integer(-1)

_RESOURCE_FILE: Shape = {
    'httpUrl': TEXT, 'filePath': TEXT, 'fileMode': TEXT, 'storageContainerUrl': TEXT, 'blobPrefix': TEXT,
    'autoStorageContainerName': refused('auto storage accounts'),
    'identityReference': refused('managed identities')}


def _resource_file(value: Any, path: str) -> dict[str, Any]:
    file = read(_RESOURCE_FILE, value, path + '.')
    sources = [name for name in ('httpUrl', 'storageContainerUrl') if file.get(name)]
    if len(sources) != 1:
        raise invalid_property(path, sources, 'Exactly one of httpUrl and storageContainerUrl is needed')
    if sources == ['httpUrl'] and not file.get('filePath'):
        raise BatchError('MissingRequiredProperty', PropertyName=f'{path}.filePath')
    if '..' in (parts := file.get('filePath', '').split('/')) or parts[0] == '' and len(parts) > 1:
        raise invalid_property(f'{path}.filePath', file['filePath'],
                               'The path must stay below the working directory of the task')
    if not re.fullmatch('[0-7]{1,4}', mode := file.get('fileMode', '0770')):
        raise invalid_property(f'{path}.fileMode', mode, 'Expected octal digits such as 0770')
    return file


_RESOURCE_FILES = list_of(Field(_resource_file))

_OUTPUT_FILES = list_of(object_of({
    'filePattern': TEXT(required=True),
    'destination': object_of({'container': object_of({
        'containerUrl': TEXT(required=True), 'path': TEXT,
        'identityReference': refused('managed identities'),
        'uploadHeaders': _NAMED_VALUES})(required=True)})(required=True),
    'uploadOptions': object_of({
        'uploadCondition': one_of('TaskSuccess', 'TaskFailure', 'TaskCompletion')(default='TaskCompletion')})(
            required=True)}))

_USER_IDENTITY = object_of({
    'username': refused('named user accounts'),
    'autoUser': object_of({'scope': one_of('task', 'pool')(default='pool'),
                           'elevationLevel': one_of('nonadmin', 'admin')(default='nonadmin')})})

_PROCESS: Shape = {
    'commandLine': text(least=1)(required=True),
    'containerSettings': _CONTAINER,
    'resourceFiles': _RESOURCE_FILES,
    'environmentSettings': _NAMED_VALUES,
    'userIdentity': _USER_IDENTITY(default=lambda: copy.deepcopy(AUTO_USER))}

START_TASK: Shape = {
    **_PROCESS,
    'maxTaskRetryCount': _RETRIES(default=0),
    'waitForSuccess': BOOLEAN(default=True)}

_IMAGE: Shape = {
    'publisher': TEXT(required=True), 'offer': TEXT(required=True), 'sku': TEXT(required=True),
    'version': TEXT(default='latest'),
    'virtualMachineImageId': refused('custom images'), 'sharedGalleryImageId': refused('custom images'),
    'communityGalleryImageId': refused('custom images'), 'exactVersion': TEXT}

_VIRTUAL_MACHINE: Shape = {
    'imageReference': object_of(_IMAGE)(required=True),
    'nodeAgentSKUId': TEXT(required=True),
    'containerConfiguration': _CONTAINER, 'dataDisks': refused('data disks'), 'extensions': refused('extensions'),
    **dict.fromkeys(('diskEncryptionConfiguration', 'nodePlacementConfiguration', 'osDisk', 'securityProfile'), ECHOED),
    'licenseType': TEXT,
    'serviceArtifactReference': refused('service artifacts'), 'windowsConfiguration': refused('Windows nodes')}

POOL: Shape = {
    'id': ID(required=True),
    'displayName': text(most=1024),
    'vmSize': text(least=1)(required=True),
    'virtualMachineConfiguration': object_of(_VIRTUAL_MACHINE)(required=True),
    'cloudServiceConfiguration': refused('cloud services'),
    'resizeTimeout': duration_of(least='PT5M')(default='PT15M'),
    'targetDedicatedNodes': integer(0)(default=0),
    'targetLowPriorityNodes': integer(0)(default=0),
    'enableAutoScale': refused('autoscale formulas')(default=False),
    'autoScaleFormula': refused('autoscale formulas'),
    'autoScaleEvaluationInterval': refused('autoscale formulas'),
    'enableInterNodeCommunication': BOOLEAN(default=False),
    'networkConfiguration': _NETWORK,
    'startTask': object_of(START_TASK),
    'certificateReferences': refused('certificates'),
    'applicationPackageReferences': _PACKAGES, 'applicationLicenses': refused('application licenses'),
    'taskSlotsPerNode': integer(1, 256)(default=1),
    'taskSchedulingPolicy': object_of({
        'nodeFillType': one_of('Spread', 'Pack')(default='Spread'),
        'jobDefaultOrder': one_of('none', 'creationtime')})(default=lambda: {'nodeFillType': 'Spread'}),
    'userAccounts': refused('user accounts'),
    'metadata': _METADATA,
    'mountConfiguration': refused('mounts'),
    'targetNodeCommunicationMode': one_of('default', 'classic', 'simplified'),
    'upgradePolicy': ECHOED,
    'resourceTags': ECHOED}

_TASK_CONSTRAINTS = object_of({
    'maxWallClockTime': duration_of()(default=INFINITE),
    'retentionTime': duration_of()(default=TASK_RETENTION),
    'maxTaskRetryCount': _RETRIES(default=0)})

JOB_PREPARATION: Shape = {
    **_PROCESS, 'id': ID(default='jobpreparation'), 'constraints': _TASK_CONSTRAINTS(default=lambda: {
        'maxWallClockTime': INFINITE, 'retentionTime': TASK_RETENTION, 'maxTaskRetryCount': 0}),
    'waitForSuccess': BOOLEAN(default=True), 'rerunOnNodeRebootAfterSuccess': BOOLEAN(default=True)}

JOB_RELEASE: Shape = {
    **_PROCESS, 'id': ID(default='jobrelease'),
    'maxWallClockTime': duration_of(most='PT15M')(default='PT15M'),
    'retentionTime': duration_of()(default=TASK_RETENTION)}


def _parallel_tasks(value: Any, path: str) -> int:
    number = integer(-1).convert(value, path)
    if number == 0:
        raise invalid_property(path, value, 'Expected -1, for no limit, or a number above 0')
    return number


JOB: Shape = {
    'id': ID(required=True),
    'displayName': text(most=1024),
    'poolInfo': object_of({'poolId': ID(required=True), 'autoPoolSpecification': refused('auto pools')})(
        required=True),
    'priority': integer(-1000, 1000, code='OutOfRangePriority')(default=0),
    'maxParallelTasks': Field(_parallel_tasks)(default=-1),
    'allowTaskPreemption': refused('preempted tasks')(default=False),
    'constraints': object_of({'maxWallClockTime': duration_of()(default=INFINITE),
                              'maxTaskRetryCount': _RETRIES(default=0)})(
        default=lambda: {'maxWallClockTime': INFINITE, 'maxTaskRetryCount': 0}),
    'jobManagerTask': refused('job manager tasks'),
    'jobPreparationTask': object_of(JOB_PREPARATION),
    'jobReleaseTask': object_of(JOB_RELEASE),
    'commonEnvironmentSettings': _NAMED_VALUES,
    'onAllTasksComplete': one_of('noaction', 'terminatejob')(default='noaction'),
    'onTaskFailure': one_of('noaction', 'performexitoptionsjobaction')(default='noaction'),
    'metadata': _METADATA,
    'usesTaskDependencies': BOOLEAN(default=False),
    'networkConfiguration': _NETWORK}

_EXIT_OPTIONS = object_of({'jobAction': one_of('none', 'disable', 'terminate'),
                           'dependencyAction': one_of('satisfy', 'block')})

_LONGEST_DEPENDENCIES = 64_000  # characters, says the docstring of TaskDependencies


def _task_ids(value: Any, path: str) -> list[str]:
    ids = list_of(ID).convert(value, path)
    if sum(map(len, ids)) > _LONGEST_DEPENDENCIES:
        raise BatchError('TaskDependencyListTooLong', PropertyName=path)
    return ids


TASK: Shape = {
    **_PROCESS,
    'id': ID(required=True),
    'displayName': text(most=1024),
    'exitConditions': object_of({
        'exitCodes': list_of(object_of({'code': integer()(required=True),
                                        'exitOptions': _EXIT_OPTIONS(required=True)})),
        'exitCodeRanges': list_of(object_of({'start': integer()(required=True), 'end': integer()(required=True),
                                             'exitOptions': _EXIT_OPTIONS(required=True)})),
        'preProcessingError': _EXIT_OPTIONS, 'fileUploadError': _EXIT_OPTIONS, 'default': _EXIT_OPTIONS}),
    'outputFiles': _OUTPUT_FILES,
    'affinityInfo': object_of({'affinityId': TEXT(required=True)}),
    'constraints': object_of({'maxWallClockTime': duration_of()(default=INFINITE),
                              'retentionTime': duration_of()(default=TASK_RETENTION),
                              'maxTaskRetryCount': _RETRIES})(
        default=lambda: {'maxWallClockTime': INFINITE, 'retentionTime': TASK_RETENTION}),
    'requiredSlots': integer(1, 256)(default=1),
    'multiInstanceSettings': refused('multi-instance tasks'),
    'dependsOn': object_of({
        'taskIds': Field(_task_ids),
        'taskIdRanges': list_of(object_of({'start': integer()(required=True), 'end': integer()(required=True)}))}),
    'applicationPackageReferences': _PACKAGES,
    'authenticationTokenSettings': refused('authentication tokens')}

_RUNNING_TASKS = one_of('requeue', 'terminate', 'taskcompletion', 'retaineddata')

POOL_PROPERTIES = only(POOL, ('startTask', 'certificateReferences', 'applicationPackageReferences', 'metadata',
                              'targetNodeCommunicationMode'))
POOL_PATCH = {**POOL_PROPERTIES, **only(POOL, (
    'displayName', 'vmSize', 'enableInterNodeCommunication', 'virtualMachineConfiguration', 'taskSlotsPerNode',
    'taskSchedulingPolicy', 'networkConfiguration', 'userAccounts', 'mountConfiguration', 'upgradePolicy'))}
POOL_RESIZE: Shape = {
    'targetDedicatedNodes': integer(0), 'targetLowPriorityNodes': integer(0),
    'resizeTimeout': duration_of(least='PT5M')(default='PT15M'),
    'nodeDeallocationOption': _RUNNING_TASKS(default='requeue')}
REMOVE_NODES: Shape = {
    'nodeList': list_of(TEXT, least=1, most=100)(required=True),
    **only(POOL_RESIZE, ('resizeTimeout', 'nodeDeallocationOption'))}
JOB_PATCH = only(JOB, ('priority', 'maxParallelTasks', 'allowTaskPreemption', 'onAllTasksComplete', 'constraints',
                       'poolInfo', 'metadata', 'networkConfiguration'))
NODE_REBOOT: Shape = {'nodeRebootOption': _RUNNING_TASKS(default='requeue')}
NODE_REIMAGE: Shape = {'nodeReimageOption': _RUNNING_TASKS(default='requeue')}
NODE_DISABLE: Shape = {
    'nodeDisableSchedulingOption': one_of('requeue', 'terminate', 'taskcompletion')(default='requeue')}
JOB_UPDATE: Shape = {**JOB_PATCH, 'id': TEXT}
JOB_DISABLE: Shape = {'disableTasks': one_of('requeue', 'terminate', 'wait')(required=True)}
JOB_TERMINATE: Shape = {'terminateReason': TEXT(default='UserTerminate')}
TASK_COLLECTION: Shape = {'value': list_of(Field(lambda task, path: task), most=MOST_TASKS)(required=True)}
TASK_UPDATE = only(TASK, ('constraints',))
