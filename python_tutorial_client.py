"""Counts words in parallel with Azure Batch: the workflow that nearly every Batch solution has.

The input files go to Azure Storage, a pool of Linux nodes runs one task per file, and each task puts its
file's most frequent words back into Storage, from where they are downloaded. Follow main() from step 1 to
step 9.
"""
from __future__ import annotations

import datetime
import itertools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import azure.batch.models as batchmodels
from azure.batch import BatchServiceClient
from azure.core.exceptions import AzureError, ResourceExistsError
from azure.storage.blob import (BlobSasPermissions, BlobServiceClient, ContainerSasPermissions,
                                generate_blob_sas, generate_container_sas)

from common.accounts import Account, open_account
from common.adding_watch import adding_gives_up
from common.clean_up import cleaned_up_after_errors, told_in_one_line
from common.command_line import parse_arguments
from common.downloads import DownloadError, path_for, whole_file
from common.errors import errors_end_the_run, one_line
from common.first_contact import check_accounts
from common.helpers import (print_batch_exception, query_yes_no,  # noqa: F401
                            select_latest_verified_vm_image_with_node_agent_sku, wait_for_enter,
                            wrap_commands_in_shell)
from common.outcome import output_name, print_failed_tasks, print_top_words
from common.patience import looks
from common.pool_reuse import mark_of_task_script, reuse_existing_pool
from common.pool_watch import PoolWatch, WaitError
from common.progress import show_progress
from common.sas import sas_signing_key
from common.taken_names import delete_existing_job, error_code, once_deleted

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

_JOB_ID = 'PythonTutorialJob'
_TUTORIAL_TASK_FILE = 'python_tutorial_task.py'

_PROJECT = Path(__file__).resolve().parent
_INPUT_FILES = [_PROJECT / 'data' / f'taskdata{number}.txt' for number in (1, 2, 3)]

# Long enough for Azure to allocate the nodes and for their start task, which together take most of the time.
_TIMEOUT = datetime.timedelta(minutes=20)

# A shared access signature (SAS) that is stolen is good until it expires; one that expires too soon breaks
# the run. This outlasts the uploads, the wait, and a clock that is 15 minutes off: further, Batch refuses.
_SAS_LIFETIME = datetime.timedelta(hours=2)


def create_container(blob_service_client: BlobServiceClient, container_name: str) -> bool:
    """Creates a container in the storage account; returns False if it is there already, which is as good.

    Raises NameTakenError when an earlier container of this name takes too long to be deleted.
    """
    try:
        once_deleted(lambda: blob_service_client.create_container(container_name), f'container [{container_name}]')
    except ResourceExistsError:
        return False
    return True


def upload_file_to_container(blob_service_client: BlobServiceClient, container_name: str,
                             file_path: str | Path) -> batchmodels.ResourceFile:
    """Uploads a file, and returns it as a resource file: what a node needs to download it.

    A resource file is a URL and the name that the file gets on the node, which downloads it before the
    command line runs. Start tasks, tasks, job preparation and job release tasks can have them. The URL
    carries a SAS that allows to read this one blob, so that the node needs no account key: the key never
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
    """Returns a SAS for a whole container: a token that allows what blob_permissions says, and nothing else.

    blob_permissions is an object of the SDK or its short form, such as 'w'. The token has no leading '?'.
    """
    expiry = datetime.datetime.now(datetime.timezone.utc) + _SAS_LIFETIME
    return generate_container_sas(blob_service_client.account_name, container_name,
                                  permission=blob_permissions, expiry=expiry,
                                  **sas_signing_key(blob_service_client, expiry))


def create_pool(batch_service_client: BatchServiceClient, pool_id: str,
                resource_files: list[batchmodels.ResourceFile], publisher: str, offer: str, sku: str, *,
                ask: bool = True, metadata: Sequence[batchmodels.MetadataItem] = ()) -> bool:
    """Creates a pool of Linux nodes; resource_files go to the start task of each node.

    Returns at once, long before there is a node. Each node runs the start task when it joins the pool and
    whenever it restarts, and takes no other task until the start task has succeeded.

    A pool that exists is reused if it is like this one: then returns False, otherwise True. Unless ask is
    False, the reader is asked. metadata is kept with a new pool.

    Raises BatchErrorException, ImageNotFoundError when Batch offers no such image, and NameTakenError when
    there is another pool of this name.
    """
    print(f'Creating pool [{pool_id}]...')

    # A node needs an operating system image and the node agent that Batch has built for it.
    node_agent_sku_id, image_reference = select_latest_verified_vm_image_with_node_agent_sku(
        batch_service_client, publisher, offer, sku)

    # The start task begins in its own working directory (AZ_BATCH_TASK_WORKING_DIR), where its resource files
    # are. Every task of the node can read the node's shared directory (AZ_BATCH_NODE_SHARED_DIR).
    task_commands = [
        f'install -m 644 {_TUTORIAL_TASK_FILE} "$AZ_BATCH_NODE_SHARED_DIR"',
        # A node that restarted has the package, and so has one on the reader's own machine: change nothing.
        'if python3 -c "import azure.storage.blob" 2>/dev/null; then exit 0; fi',
        # What root installs, the tasks' ordinary user must be able to read.
        'umask 022',
        # pip guards a Debian or Ubuntu system's own Python; this node exists for our tasks alone.
        'export DEBIAN_FRONTEND=noninteractive PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore',
        # A node that just booted may still be updating itself, and apt-get does not wait for all the locks
        # that this holds: try again for five minutes. A restart leaves packages half installed: repair them.
        'if [ -n "$(dpkg --audit)" ] || ! python3 -m pip --version >/dev/null 2>&1; then '
        'until dpkg --configure -a; apt-get -q update '
        '&& apt-get -qy --no-install-recommends --fix-broken install '
        '&& apt-get -qy --no-install-recommends install python3-pip; '
        'do (( SECONDS < 300 )) || exit 1; sleep 5; done; fi',
        'python3 -m pip install --quiet --no-cache-dir --disable-pip-version-check '
        '"azure-storage-blob==12.*"',
        'python3 -c "import azure.storage.blob"',
    ]

    pool = batchmodels.PoolAddParameter(
        id=pool_id,
        virtual_machine_configuration=batchmodels.VirtualMachineConfiguration(
            image_reference=image_reference, node_agent_sku_id=node_agent_sku_id),
        vm_size=_POOL_VM_SIZE,
        target_dedicated_nodes=_POOL_NODE_COUNT,
        # This VM size has two cores, so that a node can run two of our tasks at a time.
        task_slots_per_node=2,
        start_task=batchmodels.StartTask(
            command_line=wrap_commands_in_shell('linux', task_commands),
            resource_files=resource_files,
            wait_for_success=True,
            # Installing packages takes an administrator. The tasks run later, as an ordinary user.
            user_identity=batchmodels.UserIdentity(auto_user=batchmodels.AutoUserSpecification(
                scope=batchmodels.AutoUserScope.pool, elevation_level=batchmodels.ElevationLevel.admin))),
        metadata=[*metadata, mark_of_task_script(_PROJECT / _TUTORIAL_TASK_FILE)])

    try:
        once_deleted(lambda: batch_service_client.pool.add(pool), f'pool [{pool_id}]')
    except batchmodels.BatchErrorException as error:
        if error_code(error) != 'PoolExists':
            raise
        # Nodes take minutes to come. Those that are there already save that.
        if reuse_existing_pool(batch_service_client, pool, ask=ask):
            return False
        batch_service_client.pool.delete(pool_id)
        once_deleted(lambda: batch_service_client.pool.add(pool), f'pool [{pool_id}]')
    return True


def create_job(batch_service_client: BatchServiceClient, job_id: str, pool_id: str, *,
               ask: bool = True, metadata: Sequence[batchmodels.MetadataItem] = ()) -> None:
    """Creates a job, a collection of tasks that run on one pool.

    A job can also carry a priority and constraints for its tasks, such as the time that they may take. One that
    exists is replaced if it has ended, and otherwise if the reader says so, who is not asked if ask is False.

    Raises BatchErrorException, and NameTakenError when a job of this name has not ended.
    """
    print(f'Creating job [{job_id}]...')

    job = batchmodels.JobAddParameter(
        id=job_id, pool_info=batchmodels.PoolInformation(pool_id=pool_id), metadata=list(metadata),
        # If this program is killed, nobody deletes the job. It must not run for ever, and not be ended by this
        # while we wait for it.
        constraints=batchmodels.JobConstraints(max_wall_clock_time=_TIMEOUT + datetime.timedelta(minutes=10)))

    try:
        once_deleted(lambda: batch_service_client.job.add(job), f'job [{job_id}]')
    except batchmodels.BatchErrorException as error:
        if error_code(error) != 'JobExists':
            raise
        delete_existing_job(batch_service_client, job_id, ask=ask)
        once_deleted(lambda: batch_service_client.job.add(job), f'job [{job_id}]')


def add_tasks(batch_service_client: BatchServiceClient, job_id: str,
              input_files: list[batchmodels.ResourceFile], output_container_name: str,
              output_container_sas_token: str, *, numwords: int = 3,
              storage_account_name: str = '', storage_account_url: str = '') -> None:
    """Adds one task per input file to the job: topNtask0, topNtask1 and so on.

    numwords is how many words each task reports. storage_account_name is the setting above unless given;
    storage_account_url is the account's blob URL, needed only outside of Azure's public cloud.

    Raises CreateTasksErrorException when the Batch service refuses some of the tasks, or is in trouble for a
    minute.
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
        name = input_file.file_path
        filepath = f'./{name}' if name.startswith('-') else name
        # Batch runs no shell of its own: to expand the variable, the command line must start one.
        command = (f'python3 "$AZ_BATCH_NODE_SHARED_DIR/{_TUTORIAL_TASK_FILE}" '
                   + shlex.join(['--filepath', filepath, *arguments]))
        tasks.append(batchmodels.TaskAddParameter(
            id=f'topNtask{number}',
            command_line=wrap_commands_in_shell('linux', [command]),
            resource_files=[input_file]))

    # While the Batch service is in trouble, the SDK sends the tasks again and again: not for ever, please.
    with adding_gives_up(batch_service_client):
        batch_service_client.task.add_collection(job_id, tasks)


def wait_for_tasks_to_complete(batch_service_client: BatchServiceClient, job_id: str,
                               timeout: datetime.timedelta, *,
                               poll_interval: datetime.timedelta = datetime.timedelta(seconds=1)) -> bool:
    """Returns True when all tasks of the job are in the Completed state, whether they succeeded or not.

    Meanwhile Batch queues the tasks, and schedules them as nodes become ready and slots become free. Prints a
    dot per look at the tasks, or shows a progress bar at a terminal; two looks are at most poll_interval apart.

    Raises WaitError, a RuntimeError, when the timeout has passed, and before that when tasks can no longer be
    expected to complete: no nodes, a start task that failed, a job that has ended, a service out of reach.
    """
    print(f"Monitoring all tasks for 'Completed' state, timeout in {timeout}...", end='', flush=True)

    # Of a job with thousands of tasks, let the service send only what still matters.
    incomplete_only = batchmodels.TaskListOptions(filter="state ne 'completed'", select='id,state')
    ids_only = batchmodels.TaskListOptions(select='id')
    with show_progress(lambda: len(list(batch_service_client.task.list(
            job_id, task_list_options=ids_only)))) as progress:
        # A job knows nothing of its nodes: where these are in trouble, its tasks just stay active.
        pool_watch = PoolWatch(batch_service_client, job_id, progress.note)
        for _ in looks(timeout, poll_interval):
            progress.look()
            with pool_watch.patience():
                tasks = batch_service_client.task.list(job_id, task_list_options=incomplete_only)
                incomplete = (task for task in tasks if task.state != batchmodels.TaskState.completed)
                to_show = list(itertools.islice(incomplete, progress.tasks_to_show))
                if not to_show:
                    return True
                pool_watch.look()
                progress.show(to_show, pool_watch.nodes)

    raise pool_watch.timed_out(timeout)


def download_blobs_from_container(blob_service_client: BlobServiceClient, container_name: str,
                                  directory_path: str | Path) -> dict[str, Path]:
    """Downloads every blob of the container into the directory; returns the paths by blob name.

    The tasks have put their results into Storage. Files that stay on a node can be read too, through the
    Batch service, as long as the node and its task exist.

    A file of yours that has a blob's name is renamed. Raises DownloadError in the end if some of the blobs
    could not be downloaded.
    """
    print(f'Downloading all files from container [{container_name}]...')

    container_client = blob_service_client.get_container_client(container_name)
    downloaded: dict[str, Path] = {}
    failed: dict[str, str] = {}
    for blob in container_client.list_blobs():
        try:
            destination_file_path = path_for(Path(directory_path), blob.name)
            with whole_file(destination_file_path) as destination_file:
                container_client.download_blob(blob.name).readinto(destination_file)
        except (AzureError, OSError) as error:
            failed[blob.name] = one_line(error)
            continue
        downloaded[blob.name] = destination_file_path
        print(f'  Downloaded blob [{blob.name}] from container [{container_name}] to {destination_file_path}')

    if failed:
        raise DownloadError(container_name, failed)
    print('  Download complete!')
    return downloaded


@errors_end_the_run
def main() -> int:
    """Runs the tutorial as the command line says, and returns its exit code."""
    arguments = parse_arguments(_INPUT_FILES)
    ask = not arguments.yes
    settings = Account(batch_account_name=_BATCH_ACCOUNT_NAME, batch_account_key=_BATCH_ACCOUNT_KEY,
                       batch_account_url=_BATCH_ACCOUNT_URL, storage_account_name=_STORAGE_ACCOUNT_NAME,
                       storage_account_key=_STORAGE_ACCOUNT_KEY)

    # What is made from here on is deleted whatever happens, by steps 8 and 9 or by what this with block ends in.
    with open_account(settings) as account, cleaned_up_after_errors(account, ask=ask) as made:
        start_time = datetime.datetime.now().replace(microsecond=0)
        print(f'Sample start: {start_time}')
        print()

        blob_service_client = BlobServiceClient(account.storage_account_url,
                                                credential=account.storage_credential,
                                                **account.storage_client_options)
        batch_service_client = BatchServiceClient(account.batch_credentials, batch_url=account.batch_account_url)
        batch_service_client.config.retry_policy.retries = account.batch_client_retries
        check_accounts(blob_service_client, batch_service_client)

        # 1. Create the containers: one for the task script, one for the data, one for the results.
        app_container_name, input_container_name, output_container_name = 'application', 'input', 'output'
        input_names = [file_path.name for file_path in arguments.input_files]
        for container_name, blob_names in ((app_container_name, [_TUTORIAL_TASK_FILE]),
                                           (input_container_name, input_names),
                                           (output_container_name, map(output_name, input_names))):
            with made.container(blob_service_client, container_name, blob_names) as container:
                container.created = create_container(blob_service_client, container_name)

        # 2. Upload the task script and the data. All that the nodes may do with your storage account is to
        #    read these files and to write into the output container (and again, should a task run again).
        application_files = [upload_file_to_container(blob_service_client, app_container_name,
                                                      _PROJECT / _TUTORIAL_TASK_FILE)]
        input_files = [upload_file_to_container(blob_service_client, input_container_name, file_path)
                       for file_path in arguments.input_files]
        output_container_sas_token = get_container_sas_token(blob_service_client, output_container_name,
                                                             ContainerSasPermissions(write=True))

        # 3. Create the pool of nodes that will run the tasks.
        with made.pool(batch_service_client, _POOL_ID) as pool:
            pool.created = create_pool(batch_service_client, _POOL_ID, application_files,
                                       _NODE_OS_PUBLISHER, _NODE_OS_OFFER, _NODE_OS_SKU,
                                       ask=ask, metadata=made.metadata)

        # 4. Create the job that the tasks belong to.
        with made.job(batch_service_client, _JOB_ID):
            create_job(batch_service_client, _JOB_ID, _POOL_ID, ask=ask, metadata=made.metadata)

        # 5. Add the tasks, all in one call. They start as soon as there are nodes.
        add_tasks(batch_service_client, _JOB_ID, input_files, output_container_name,
                  output_container_sas_token, numwords=arguments.numwords,
                  storage_account_name=account.storage_account_name,
                  storage_account_url=account.storage_account_url)
        # All are there, so that the job may end with its last task, whatever becomes of this program.
        batch_service_client.job.patch(_JOB_ID, batchmodels.JobPatchParameter(
            on_all_tasks_complete=batchmodels.OnAllTasksComplete.terminate_job))

        # 6. Wait. On Azure, most of the time goes into the nodes: watch them in the portal. Completed is not
        #    succeeded: what came of the tasks is another question.
        try:
            wait_for_tasks_to_complete(batch_service_client, _JOB_ID, _TIMEOUT)
        except WaitError:
            # What is complete is worth having, before the containers go.
            with told_in_one_line():
                print_failed_tasks(batch_service_client, _JOB_ID, blob_service_client, output_container_name)
                download_blobs_from_container(blob_service_client, output_container_name, arguments.output_dir)
            raise
        failed_tasks = print_failed_tasks(batch_service_client, _JOB_ID, blob_service_client, output_container_name)
        if not failed_tasks:
            print("  Success! All tasks reached the 'Completed' state within the specified timeout period.")

        # 7. Download the results, and show what the tasks have found.
        print_top_words(download_blobs_from_container(blob_service_client, output_container_name,
                                                      arguments.output_dir))

        # 8. Delete the containers: stored blobs cost money.
        made.delete_containers()

        end_time = datetime.datetime.now().replace(microsecond=0)
        print()
        print(f'Sample end: {end_time}')
        print(f'Elapsed time: {end_time - start_time}')
        print()

        # 9. Delete the job and the pool. Tasks cost nothing, nodes do as long as they exist. Deleting a pool
        #    deletes its nodes and all that is on them.
        made.offer_to_delete_job()
        made.offer_to_delete_pool()

        print()
        wait_for_enter('Press ENTER to exit...', ask=ask)
    return 1 if failed_tasks else 0


if __name__ == '__main__':
    sys.exit(main())
