"""The operations of Batch under names that hold for both generations of azure-batch, so that one text tests both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from importlib.metadata import version
from typing import Any

Document = dict[str, Any]

TOLD_FILE = 'LIFE_CYCLE_SERVICES'
"""The variable with the name of a file that tells which services to use, as JSON: values by names of fixtures."""

VERSION = version('azure-batch')
GENERATION = f'v{VERSION.partition(".")[0]}'


@dataclass(frozen=True)
class Account:
    """Where a Batch service is, and how to sign for it."""

    url: str
    name: str
    key: str = field(repr=False)


@dataclass(frozen=True)
class FileProperties:
    """What the service tells of a file without its content."""

    url: str
    is_directory: bool
    last_modified: datetime
    content_length: int
    mode: str


class Refused(Exception):
    """The service refused a request; ``str()`` begins with the status and the code."""

    def __init__(self, status: int, code: str | None, message: str, values: Mapping[str, str]) -> None:
        self.status = status
        self.code = code
        self.message = message
        self.values = dict(values)
        super().__init__(f'{status} {code}: {message} {self.values}')


@dataclass(frozen=True)
class Operation:
    """What an operation is called in both generations, and the model that its document becomes there.

    No name says that the generation does not have it; an asterisk before a model, that the method takes the model's
    properties one by one.
    """

    v14: str
    v15: str
    v14_model: str = ''
    v15_model: str = ''


OPERATIONS = {
    'list_supported_images': Operation('account.list_supported_images', 'list_supported_images'),
    'list_node_counts': Operation('account.list_pool_node_counts', 'list_pool_node_counts'),
    'list_certificates': Operation('certificate.list', ''),
    'add_certificate': Operation('certificate.add', '', 'CertificateAddParameter'),
    'get_certificate': Operation('certificate.get', ''),
    'delete_certificate': Operation('certificate.delete', ''),
    'cancel_certificate_deletion': Operation('certificate.cancel_deletion', ''),
    'list_applications': Operation('application.list', 'list_applications'),
    'get_application': Operation('application.get', 'get_application'),
    'list_usage_metrics': Operation('pool.list_usage_metrics', 'list_pool_usage_metrics'),

    'add_pool': Operation('pool.add', 'create_pool', 'PoolAddParameter', 'BatchPoolCreateOptions'),
    'list_pools': Operation('pool.list', 'list_pools'),
    'get_pool': Operation('pool.get', 'get_pool'),
    'pool_exists': Operation('pool.exists', 'pool_exists'),
    'patch_pool': Operation('pool.patch', 'update_pool', 'PoolPatchParameter', 'BatchPoolUpdateOptions'),
    'update_pool_properties': Operation('pool.update_properties', 'replace_pool_properties',
                                        'PoolUpdatePropertiesParameter', 'BatchPoolReplaceOptions'),
    'resize_pool': Operation('pool.resize', 'begin_resize_pool', 'PoolResizeParameter', 'BatchPoolResizeOptions'),
    'stop_pool_resize': Operation('pool.stop_resize', 'begin_stop_pool_resize'),
    'remove_nodes': Operation('pool.remove_nodes', 'begin_remove_nodes', 'NodeRemoveParameter',
                              'BatchNodeRemoveOptions'),
    'delete_pool': Operation('pool.delete', 'begin_delete_pool'),
    'enable_autoscale': Operation('pool.enable_auto_scale', 'enable_pool_auto_scale', '*PoolEnableAutoScaleParameter',
                                  'BatchPoolEnableAutoScaleOptions'),
    'disable_autoscale': Operation('pool.disable_auto_scale', 'disable_pool_auto_scale'),
    'evaluate_autoscale': Operation('pool.evaluate_auto_scale', 'evaluate_pool_auto_scale',
                                    '*PoolEvaluateAutoScaleParameter', 'BatchPoolEvaluateAutoScaleOptions'),

    'list_nodes': Operation('compute_node.list', 'list_nodes'),
    'get_node': Operation('compute_node.get', 'get_node'),
    'reboot_node': Operation('compute_node.reboot', 'begin_reboot_node', '*NodeRebootParameter'),
    'reimage_node': Operation('compute_node.reimage', 'begin_reimage_node', '*NodeReimageParameter'),
    'disable_node': Operation('compute_node.disable_scheduling', 'disable_node_scheduling',
                              '*NodeDisableSchedulingParameter'),
    'enable_node': Operation('compute_node.enable_scheduling', 'enable_node_scheduling'),
    'deallocate_node': Operation('', 'begin_deallocate_node'),
    'start_node': Operation('', 'begin_start_node'),
    'add_node_user': Operation('compute_node.add_user', 'create_node_user', 'ComputeNodeUser',
                               'BatchNodeUserCreateOptions'),
    'update_node_user': Operation('compute_node.update_user', 'replace_node_user', 'NodeUpdateUserParameter',
                                  'BatchNodeUserReplaceOptions'),
    'delete_node_user': Operation('compute_node.delete_user', 'delete_node_user'),
    'get_remote_desktop': Operation('compute_node.get_remote_desktop', ''),
    'get_remote_login': Operation('compute_node.get_remote_login_settings', 'get_node_remote_login_settings'),
    'upload_node_logs': Operation('compute_node.upload_batch_service_logs', 'upload_node_logs',
                                  'UploadBatchServiceLogsConfiguration', 'UploadBatchServiceLogsOptions'),
    'list_node_extensions': Operation('compute_node_extension.list', 'list_node_extensions'),
    'get_node_extension': Operation('compute_node_extension.get', 'get_node_extension'),

    'add_job': Operation('job.add', 'create_job', 'JobAddParameter', 'BatchJobCreateOptions'),
    'list_jobs': Operation('job.list', 'list_jobs'),
    'get_job': Operation('job.get', 'get_job'),
    'patch_job': Operation('job.patch', 'update_job', 'JobPatchParameter', 'BatchJobUpdateOptions'),
    'update_job': Operation('job.update', 'replace_job', 'JobUpdateParameter', 'BatchJob'),
    'disable_job': Operation('job.disable', 'begin_disable_job', '*JobDisableParameter', 'BatchJobDisableOptions'),
    'enable_job': Operation('job.enable', 'begin_enable_job'),
    'terminate_job': Operation('job.terminate', 'begin_terminate_job', '*JobTerminateParameter'),
    'delete_job': Operation('job.delete', 'begin_delete_job'),
    'get_task_counts': Operation('job.get_task_counts', 'get_job_task_counts'),
    'list_preparation_status': Operation('job.list_preparation_and_release_task_status',
                                         'list_job_preparation_and_release_task_status'),

    'add_job_schedule': Operation('job_schedule.add', 'create_job_schedule', 'JobScheduleAddParameter',
                                  'BatchJobScheduleCreateOptions'),
    'list_job_schedules': Operation('job_schedule.list', 'list_job_schedules'),
    'get_job_schedule': Operation('job_schedule.get', 'get_job_schedule'),
    'job_schedule_exists': Operation('job_schedule.exists', 'job_schedule_exists'),
    'patch_job_schedule': Operation('job_schedule.patch', 'update_job_schedule', 'JobSchedulePatchParameter',
                                    'BatchJobScheduleUpdateOptions'),
    'update_job_schedule': Operation('job_schedule.update', 'replace_job_schedule', 'JobScheduleUpdateParameter',
                                     'BatchJobSchedule'),
    'disable_job_schedule': Operation('job_schedule.disable', 'disable_job_schedule'),
    'enable_job_schedule': Operation('job_schedule.enable', 'enable_job_schedule'),
    'terminate_job_schedule': Operation('job_schedule.terminate', 'begin_terminate_job_schedule'),
    'delete_job_schedule': Operation('job_schedule.delete', 'begin_delete_job_schedule'),
    'list_jobs_of_schedule': Operation('job.list_from_job_schedule', 'list_jobs_from_schedule'),

    'add_task': Operation('task.add', 'create_task', 'TaskAddParameter', 'BatchTaskCreateOptions'),
    'add_tasks': Operation('task.add_collection', 'create_tasks'),
    'list_tasks': Operation('task.list', 'list_tasks'),
    'get_task': Operation('task.get', 'get_task'),
    'update_task': Operation('task.update', 'replace_task', '*TaskUpdateParameter', 'BatchTask'),
    'terminate_task': Operation('task.terminate', 'terminate_task'),
    'reactivate_task': Operation('task.reactivate', 'reactivate_task'),
    'delete_task': Operation('task.delete', 'delete_task'),
    'list_subtasks': Operation('task.list_subtasks', 'list_subtasks'),

    'list_task_files': Operation('file.list_from_task', 'list_task_files'),
    'get_task_file': Operation('file.get_from_task', 'download_task_file'),
    'get_task_file_properties': Operation('file.get_properties_from_task', 'get_task_file_properties'),
    'delete_task_file': Operation('file.delete_from_task', 'delete_task_file'),
    'list_node_files': Operation('file.list_from_compute_node', 'list_node_files'),
    'get_node_file': Operation('file.get_from_compute_node', 'download_node_file'),
    'get_node_file_properties': Operation('file.get_properties_from_compute_node', 'get_node_file_properties'),
    'delete_node_file': Operation('file.delete_from_compute_node', 'delete_node_file'),
}


def offered(operation: str) -> bool:
    """Whether the SDK that is installed has an operation."""
    return bool(getattr(OPERATIONS[operation], GENERATION))


class Client:
    """Has one method for each of OPERATIONS: ids first, then the document if there is one, then options.

    Documents have the names of the REST API. They go out as the SDK's models, and come back from its models: moments,
    durations and numbers are what the SDK made of them. (For the names, the private tables of the models must do.)
    Lists come whole, files as bytes. What 15.1 polls for has come about when the method returns.

    The options are those of the SDKs: ``filter``, ``select`` and ``expand`` (lists), ``max_results``, ``recursive``,
    ``ocp_range``, ``if_match``, ``if_none_match``, ``if_modified_since``, ``if_unmodified_since``.
    """

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in OPERATIONS:
            raise AttributeError(name)
        return partial(self._call, name)

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        raise NotImplementedError

    def begin(self, name: str, *arguments: Any) -> None:
        """Calls an operation without waiting for what it begins."""
        self._call(name, *arguments)

    def add_tasks(self, job_id: str, tasks: list[Document]) -> tuple[list[str], dict[str, str]]:
        """Adds tasks as a collection; returns the ids of all if all were added, else the refused ones' codes by id."""
        raise NotImplementedError

    def answer_headers(self, name: str, *arguments: Any, headers: Mapping[str, str] | None = None) -> Mapping[str, str]:
        """Calls an operation with more headers than the SDK's own; returns those of the answer."""
        raise NotImplementedError
