"""Counts words in parallel with Azure Batch: the workflow that nearly every Batch solution has.

The input files go to Azure Storage, a pool of Linux nodes runs one task per file, and each task puts its file's
most frequent words back into Storage, from where they are downloaded. Follow main() from step 1 to step 9. What has
the prefix "guards." only looks after the steps. What has none is Azure or Python.
"""
from __future__ import annotations

# The first import, so that it can say which of the packages below is missing.
from common import guards

import contextlib
import datetime
import functools
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import azure.batch.models as batchmodels
from azure.batch import BatchServiceClient
from azure.batch.batch_auth import SharedKeyCredentials
from azure.core.exceptions import AzureError, ResourceExistsError
from azure.storage.blob import (BlobSasPermissions, BlobServiceClient, ContainerSasPermissions,
                                generate_blob_sas, generate_container_sas)

from common.helpers import (commands_that_install, no_endless_retries, print_batch_exception, query_yes_no,
                            sas_signing_key, select_latest_verified_vm_image_with_node_agent_sku, wait_for_enter,
                            wrap_commands_in_shell)

# Your accounts. The portal shows these five under "Keys" of the Batch account and "Access keys" of the
# storage account; so do `az batch account show`, `az batch account keys list`, `az storage account keys
# list`. What is empty comes from the Azure CLI's environment variables. All empty: everything happens here.
_BATCH_ACCOUNT_NAME = ''
_BATCH_ACCOUNT_KEY = ''
_BATCH_ACCOUNT_URL = ''
_STORAGE_ACCOUNT_NAME = ''
_STORAGE_ACCOUNT_KEY = ''

# The nodes: every one of them counts against the account's core quota, and costs money while it exists.
_POOL_ID = 'PythonTutorialPool'
_POOL_NODE_COUNT = 2
_POOL_VM_SIZE = 'STANDARD_D2S_V5'
_NODE_OS_PUBLISHER = 'Canonical'
_NODE_OS_OFFER = 'ubuntu-24_04-lts'
_NODE_OS_SKU = 'server'
# This VM size has two cores, so that a node can run two of our tasks at a time.
_TASK_SLOTS_PER_NODE = 2

_JOB_ID = 'PythonTutorialJob'
_TUTORIAL_TASK_FILE = 'python_tutorial_task.py'

_PROJECT = Path(__file__).resolve().parent
_TASK_SCRIPT = _PROJECT / _TUTORIAL_TASK_FILE
_INPUT_FILES = [_PROJECT / 'data' / f'taskdata{number}.txt' for number in (1, 2, 3)]

# Long enough for Azure to allocate the nodes and for their start task, which together take most of the time.
_TIMEOUT = datetime.timedelta(minutes=20)

# A shared access signature (SAS) that is stolen is good until it expires; one that expires too soon breaks
# the run. This outlasts the uploads, the wait, and a clock that is 15 minutes off: further, Batch refuses.
_SAS_LIFETIME = datetime.timedelta(hours=2)


def upload_file_to_container(blob_service_client: BlobServiceClient, container_name: str,
                             file_path: str | Path) -> batchmodels.ResourceFile:
    """Uploads a file, and returns it as a resource file: what a node needs to download it.

    A resource file is a URL and the name that the file gets on the node, which downloads it before the
    command line runs. Start tasks, tasks, job preparation and job release tasks can have them. The URL
    carries a SAS that allows reading this one blob, so that the node needs no account key: the key never
    leaves your workstation.
    """
    print(f'Uploading file {file_path} to container [{container_name}]...')

    blob_name = Path(file_path).name
    blob_client = blob_service_client.get_blob_client(container_name, blob_name)
    with open(file_path, 'rb') as data:
        blob_client.upload_blob(data, overwrite=True)

    # No start time: with one, a clock that is ahead of Azure's would make a signature that is not valid yet.
    expiry = datetime.datetime.now(datetime.timezone.utc) + _SAS_LIFETIME
    sas_token = generate_blob_sas(blob_service_client.account_name, container_name, blob_name,
                                  permission=BlobSasPermissions(read=True), expiry=expiry,
                                  **sas_signing_key(blob_service_client, expiry))

    return batchmodels.ResourceFile(http_url=f'{blob_client.url}?{sas_token}', file_path=blob_name)


def get_container_sas_token(blob_service_client: BlobServiceClient, container_name: str,
                            blob_permissions: ContainerSasPermissions | BlobSasPermissions | str) -> str:
    """Returns a SAS for a whole container: a token that allows what blob_permissions says, and nothing else."""
    expiry = datetime.datetime.now(datetime.timezone.utc) + _SAS_LIFETIME
    return generate_container_sas(blob_service_client.account_name, container_name,
                                  permission=blob_permissions, expiry=expiry,
                                  **sas_signing_key(blob_service_client, expiry))


def start_task_commands() -> list[str]:
    """Returns what makes a node ready for our tasks, one shell command each.

    The start task begins in its working directory (AZ_BATCH_TASK_WORKING_DIR), where its resource files are.
    Every task of the node can read the node's shared directory (AZ_BATCH_NODE_SHARED_DIR).
    """
    return [
        f'install -m 644 {_TUTORIAL_TASK_FILE} "$AZ_BATCH_NODE_SHARED_DIR"',
        *commands_that_install('azure-storage-blob==12.*', module='azure.storage.blob'),
    ]


def create_pool(batch_service_client: BatchServiceClient, pool_id: str,
                resource_files: list[batchmodels.ResourceFile], publisher: str, offer: str, sku: str, *,
                metadata: Sequence[batchmodels.MetadataItem] = ()) -> None:
    """Creates a pool of Linux nodes; resource_files go to the start task of each node.

    Returns at once, long before there is a node. Each node runs the start task when it joins the pool and
    whenever it restarts, and takes no other task until the start task has succeeded.

    Raises BatchErrorException, and ImageNotFoundError when Batch offers no such image.
    """
    print(f'Creating pool [{pool_id}]...')

    # A node needs an operating system image and the node agent that Batch has built for it.
    node_agent_sku_id, image_reference = select_latest_verified_vm_image_with_node_agent_sku(
        batch_service_client, publisher, offer, sku)

    pool = batchmodels.PoolAddParameter(
        id=pool_id,
        virtual_machine_configuration=batchmodels.VirtualMachineConfiguration(
            image_reference=image_reference, node_agent_sku_id=node_agent_sku_id),
        vm_size=_POOL_VM_SIZE,
        target_dedicated_nodes=_POOL_NODE_COUNT,
        task_slots_per_node=_TASK_SLOTS_PER_NODE,
        start_task=batchmodels.StartTask(
            command_line=wrap_commands_in_shell('linux', start_task_commands()),
            resource_files=resource_files,
            wait_for_success=True,
            # Installing packages takes an administrator. The tasks run later, as an ordinary user.
            user_identity=batchmodels.UserIdentity(auto_user=batchmodels.AutoUserSpecification(
                scope=batchmodels.AutoUserScope.pool, elevation_level=batchmodels.ElevationLevel.admin))),
        metadata=list(metadata))
    try:
        batch_service_client.pool.add(pool)
    except batchmodels.BatchErrorException as error:
        print_batch_exception(error)
        raise


def create_job(batch_service_client: BatchServiceClient, job_id: str, pool_id: str, *,
               metadata: Sequence[batchmodels.MetadataItem] = ()) -> None:
    """Creates a job, a collection of tasks that run on one pool.

    A job can also carry a priority and constraints for its tasks, such as the time that they may take. Raises
    BatchErrorException.
    """
    print(f'Creating job [{job_id}]...')

    job = batchmodels.JobAddParameter(
        id=job_id,
        pool_info=batchmodels.PoolInformation(pool_id=pool_id),
        # If this program is killed, nobody deletes the job. It must not run for ever, and not be ended by this
        # while we wait for it.
        constraints=batchmodels.JobConstraints(max_wall_clock_time=_TIMEOUT + datetime.timedelta(minutes=10)),
        metadata=list(metadata))
    try:
        batch_service_client.job.add(job)
    except batchmodels.BatchErrorException as error:
        print_batch_exception(error)
        raise


def add_tasks(batch_service_client: BatchServiceClient, job_id: str,
              input_files: list[batchmodels.ResourceFile], output_container_name: str,
              output_container_sas_token: str, *, numwords: int = 3,
              storage_account_name: str = '', storage_account_url: str = '') -> None:
    """Adds one task per input file to the job: topNtask0, topNtask1 and so on.

    numwords is how many words each task reports. storage_account_name is the setting above unless given;
    storage_account_url is the account's blob URL, needed only outside of Azure's public cloud.

    Raises CreateTasksErrorException when Batch refuses some of the tasks, or is in trouble for a minute.
    """
    print(f'Adding {len(input_files)} tasks to job [{job_id}]...')

    storage_account_name = storage_account_name or _STORAGE_ACCOUNT_NAME
    arguments = ['--numwords', str(numwords), '--storageaccount', storage_account_name,
                 '--storagecontainer', output_container_name, '--sastoken', output_container_sas_token]
    if storage_account_url.rstrip('/') not in ('', f'https://{storage_account_name}.blob.core.windows.net'):
        arguments += ['--storageurl', storage_account_url]

    tasks = []
    for number, input_file in enumerate(input_files):
        # The task begins where its resource file is. A name with a leading dash would be taken for an option.
        filepath = f'./{input_file.file_path}'
        # Batch runs no shell of its own: to expand the variable, the command line must start one.
        command = (f'python3 "$AZ_BATCH_NODE_SHARED_DIR/{_TUTORIAL_TASK_FILE}" '
                   + shlex.join(['--filepath', filepath, *arguments]))
        tasks.append(batchmodels.TaskAddParameter(
            id=f'topNtask{number}',
            command_line=wrap_commands_in_shell('linux', [command]),
            resource_files=[input_file]))

    # While Batch is in trouble, the SDK by itself would send the tasks again and again, without end.
    with no_endless_retries(batch_service_client):
        batch_service_client.task.add_collection(job_id, tasks)


def wait_for_tasks_to_complete(batch_service_client: BatchServiceClient, job_id: str,
                               timeout: datetime.timedelta) -> bool:
    """Returns True when all tasks of the job are in the Completed state, whether they succeeded or not.

    Meanwhile Batch queues the tasks, and schedules them as nodes become ready and slots become free. Prints a
    dot per look at the tasks, or how far they are at a terminal.

    Raises WaitError, a RuntimeError, when the timeout has passed, and before that when tasks can no longer be
    expected to complete: no nodes, a start task that failed, a job that has ended, a service out of reach.
    """
    print(f"Monitoring all tasks for 'Completed' state, timeout in {timeout}...", end='', flush=True)

    # There may be thousands of tasks. One that is not completed is enough to know that we have to wait.
    incomplete = batchmodels.TaskListOptions(filter="state ne 'completed'", select='id,state', max_results=1)
    with guards.watch_over_job(batch_service_client, job_id, timeout) as watch:
        while watch.has_time():
            watch.show_progress()
            with watch.patience_with_the_service():
                tasks = batch_service_client.task.list(job_id, task_list_options=incomplete)
                if all(task.state == batchmodels.TaskState.completed for task in tasks) and watch.job_is_there():
                    return True
                watch.look_at_job_pool_and_nodes()
            time.sleep(watch.pause)
        raise watch.timed_out()


def download_blobs_from_container(blob_service_client: BlobServiceClient, container_name: str,
                                  directory_path: str | Path) -> dict[str, Path]:
    """Downloads every blob of the container into the directory; returns the paths by blob name.

    The tasks have put their results into Storage. Files that stay on a node can be read too, through the Batch
    service, as long as the node and its task exist. A file of yours that has a blob's name is renamed. Raises
    DownloadError in the end if some of the blobs could not be downloaded.
    """
    print(f'Downloading all files from container [{container_name}]...')

    container_client = blob_service_client.get_container_client(container_name)
    failed: dict[str, str] = {}

    def download_blob(name: str) -> Path | None:
        try:
            destination_file_path = guards.path_inside(directory_path, name)
            with guards.whole_file(destination_file_path) as destination_file:
                container_client.download_blob(name).readinto(destination_file)
        except (AzureError, OSError) as error:
            failed[name] = guards.one_line(error)
            return None
        print(f'  Downloaded blob [{name}] from container [{container_name}] to {destination_file_path}')
        return destination_file_path

    names = [blob.name for blob in container_client.list_blobs()]
    paths = guards.side_by_side(download_blob, names)
    if failed:
        raise guards.DownloadError(container_name, failed)
    print('  Download complete!')
    return dict(zip(names, paths))


@guards.errors_end_in_one_line
def main() -> int:
    """Runs the tutorial as the command line says, and returns its exit code."""
    arguments = guards.parse_arguments(_INPUT_FILES)
    with guards.open_account(_BATCH_ACCOUNT_NAME, _BATCH_ACCOUNT_KEY, _BATCH_ACCOUNT_URL,
                             _STORAGE_ACCOUNT_NAME, _STORAGE_ACCOUNT_KEY) as account:
        # A client for each of the two services. The keys stay in them: no node ever sees one.
        credentials = account.signed_in or SharedKeyCredentials(account.batch_account_name, account.batch_account_key)
        batch_service_client = guards.patient(BatchServiceClient(credentials, batch_url=account.batch_account_url))
        blob_service_client = BlobServiceClient(account.storage_account_url, credential=account.storage_credential,
                                                retry_policy=guards.StorageRetries())

        # What the run makes bears its mark, by which it is found again, however the run ends.
        app_container_name, input_container_name, output_container_name = 'application', 'input', 'output'
        input_names = [file_path.name for file_path in arguments.input_files]
        run = guards.Run(account, batch_service_client, blob_service_client, _JOB_ID, _POOL_ID, ask=arguments.ask,
                         blob_names={app_container_name: [_TUTORIAL_TASK_FILE], input_container_name: input_names,
                                     output_container_name: map(guards.output_name, input_names)})
        recipe = guards.recipe(_TASK_SCRIPT, start_task_commands(), _NODE_OS_PUBLISHER, _NODE_OS_OFFER, _NODE_OS_SKU,
                               _POOL_VM_SIZE, _TASK_SLOTS_PER_NODE)
        reuse_pool = guards.make_names_free(run, recipe, replace_pool=arguments.replace_pool)
        with guards.cleaned_up_after_errors(run):
            start_time = datetime.datetime.now().replace(microsecond=0)
            print(f'Sample start: {start_time}\n')

            # 1. Create the containers: one for the task script, one for the data, one for the results.
            for container_name in run.container_names:
                with contextlib.suppress(ResourceExistsError):  # one that is there already is as good
                    blob_service_client.create_container(container_name, metadata=run.mark)

            # 2. Upload the task script and the data. Nodes may read these files, and write to the output container.
            application_files = [upload_file_to_container(blob_service_client, app_container_name, _TASK_SCRIPT)]
            upload_input_file = functools.partial(upload_file_to_container, blob_service_client, input_container_name)
            input_files = guards.side_by_side(upload_input_file, arguments.input_files)
            output_container_sas_token = get_container_sas_token(blob_service_client, output_container_name,
                                                                 ContainerSasPermissions(write=True))

            # 3. Create the pool of nodes that will run the tasks, unless there is one from an earlier run.
            if reuse_pool:
                guards.renew_pool(batch_service_client, _POOL_ID, application_files, _POOL_NODE_COUNT)
            else:
                create_pool(batch_service_client, _POOL_ID, application_files, _NODE_OS_PUBLISHER, _NODE_OS_OFFER,
                            _NODE_OS_SKU, metadata=run.metadata + recipe)

            # 4. Create the job that the tasks belong to.
            create_job(batch_service_client, _JOB_ID, _POOL_ID, metadata=run.metadata)

            # 5. Add the tasks, all in one call. They start as soon as there are nodes.
            add_tasks(batch_service_client, _JOB_ID, input_files, output_container_name, output_container_sas_token,
                      numwords=arguments.numwords, storage_account_name=account.storage_account_name,
                      storage_account_url=account.storage_account_url)
            # All are there, so that the job may end with its last task, whatever becomes of this program.
            batch_service_client.job.patch(_JOB_ID, batchmodels.JobPatchParameter(
                on_all_tasks_complete=batchmodels.OnAllTasksComplete.terminate_job))

            # 6. Wait. On Azure, most of the time goes into the nodes: watch them in the portal. Completed is not
            #    succeeded: what came of the tasks is another question.
            try:
                succeeded = wait_for_tasks_to_complete(batch_service_client, _JOB_ID, _TIMEOUT)
            except guards.WaitError as error:
                guards.print_error(error)  # And go on: what is completed is worth having.
                succeeded = False
            if succeeded := not guards.print_failed_tasks(run) and succeeded:
                print("  Success! All tasks reached the 'Completed' state within the specified timeout period.")

            # 7. Download the results, and show what the tasks have found.
            guards.print_top_words(download_blobs_from_container(blob_service_client, output_container_name,
                                                                 arguments.output_dir))
            run.results_fetched = True

            # 8. Delete the containers: stored blobs cost money.
            print('Deleting containers...')
            for container_name in run.container_names:
                if run.has_made_container(container_name):
                    blob_service_client.delete_container(container_name)
                else:
                    run.delete_blobs(container_name)

            end_time = datetime.datetime.now().replace(microsecond=0)
            print(f'\nSample end: {end_time}\nElapsed time: {end_time - start_time}\n')

            # 9. Delete the job, and the pool with its nodes: these cost money as long as they exist, tasks do not.
            if run.has('job') and query_yes_no('Delete job?', ask=run.ask) == 'yes':
                batch_service_client.job.delete(_JOB_ID)
            if run.has('pool') and query_yes_no('Delete pool?', 'no' if reuse_pool else 'yes', ask=run.ask) == 'yes':
                batch_service_client.pool.delete(_POOL_ID)
            guards.say_what_is_left(run)

        wait_for_enter('\nPress ENTER to exit...', ask=run.ask)
    return 0 if succeeded else 1


if __name__ == '__main__':
    sys.exit(main())
