"""Small things that any Batch client needs."""
from __future__ import annotations

import datetime
import functools
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import azure.batch.models as batchmodels
import requests
from azure.batch import BatchServiceClient
from azure.batch.custom.custom_errors import CreateTasksErrorException
from azure.storage.blob import BlobServiceClient, UserDelegationKey

from common.redaction import without_secrets

_RULE = '-' * 43
_ADDING_SECONDS = 60
_LONGEST_PAUSE_SECONDS = 5


class ImageNotFoundError(LookupError):
    """Batch offers no image that fits; the text lists what it does offer."""


def select_latest_verified_vm_image_with_node_agent_sku(
        batch_client: BatchServiceClient, publisher: str, offer: str,
        sku_starts_with: str) -> tuple[str, batchmodels.ImageReference]:
    """Picks the image for the nodes of a pool, and the node agent that fits it.

    publisher and offer are compared without regard to case. Of the verified images whose Batch support has
    not ended, the one whose SKU is exactly sku_starts_with is taken, or else the latest whose SKU starts so.
    Images for Arm processors are left out unless sku_starts_with or offer names them.

    Returns the id of the node agent SKU and the image reference. Raises ImageNotFoundError.
    """
    offered = [image for image in batch_client.account.list_supported_images()
               if image.image_reference.publisher.lower() == publisher.lower()
               and image.image_reference.offer.lower() == offer.lower()]
    prefix = sku_starts_with.lower()
    fitting = [image for image in offered
               if image.image_reference.sku.lower().startswith(prefix) and _is_supported(image)
               and (not _is_arm(image) or _names_arm(sku_starts_with) or _names_arm(offer))]
    if not fitting:
        listed = ', '.join(sorted(_describe(image) for image in offered)) or 'no image at all'
        raise ImageNotFoundError(f'No verified and supported image of {publisher} {offer} has a SKU that '
                                 f'starts with {sku_starts_with!r}. Batch offers there: {listed}.')

    best = max(fitting, key=lambda image: (image.image_reference.sku.lower() == prefix,
                                           _in_natural_order(image.image_reference.sku),
                                           _in_natural_order(image.image_reference.version or 'latest')))
    return best.node_agent_sku_id, best.image_reference


def _is_supported(image: batchmodels.ImageInformation) -> bool:
    end = image.batch_support_end_of_life
    return (image.verification_type == batchmodels.VerificationType.verified
            and (end is None or end.timestamp() > time.time()))


def _is_arm(image: batchmodels.ImageInformation) -> bool:
    reference = image.image_reference
    return any(map(_names_arm, (reference.offer, reference.sku, image.node_agent_sku_id)))


def _names_arm(name: str) -> bool:
    return re.search(r'(?<![a-z])(arm|aarch)(64)?(?![a-z])', name.lower()) is not None


def _in_natural_order(name: str) -> list[tuple[bool, int, str]]:
    # Numbers by their value, and words after numbers: 'latest' is later than any number.
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part)
            for part in re.findall(r'\d+|\D+', name.lower())]


def _describe(image: batchmodels.ImageInformation) -> str:
    if _is_supported(image):
        return image.image_reference.sku
    verified = image.verification_type == batchmodels.VerificationType.verified
    return f'{image.image_reference.sku} ({"support has ended" if verified else "not verified"})'


def wrap_commands_in_shell(ostype: str, commands: Sequence[str]) -> str:
    """Makes one command line that runs the commands in a shell, and stops at the first that fails.

    ostype is 'linux' (bash) or 'windows' (cmd.exe), for anything else a ValueError is raised. Quote inside a
    command as its shell wants it; nothing in it needs quoting because of this wrapping.
    """
    if ostype.lower() == 'linux':
        # A comment, or an & at a command's end, would swallow the semicolon: these take lines of their own.
        needs_lines = any(re.search(r'#|&\s*$', command) for command in commands)
        script = ('\n' if needs_lines else '; ').join(commands)
        return f'/bin/bash -c {shlex.quote(f"set -e; set -o pipefail; {script}")}'
    if ostype.lower() == 'windows':
        # cmd.exe takes off the first and the last quote, and leaves all quotes between them as they are.
        return f'cmd.exe /c "{" && ".join(commands)}"'
    raise ValueError(f"There is no shell for {ostype!r}: use 'linux' or 'windows'.")


def commands_that_install(requirement: str, module: str) -> list[str]:
    """Returns the commands, for a start task that runs as root, by which a Debian or Ubuntu node gets a Python package.

    requirement is pip's, such as 'azure-storage-blob==12.*'; module is what the package lets you import. Where the
    module is there, as on a node that restarted, they change nothing. They also get pip, and repair what a restart or a
    busy package manager has left of that; they give up after five minutes.
    """
    has_module = f'python3 -c "import {module}"'
    return [
        f'if {has_module} 2>/dev/null; then exit 0; fi',
        # What root installs, the tasks' ordinary user must be able to read.
        'umask 022',
        # pip guards a system's own Python; this node exists for our tasks alone.
        'export DEBIAN_FRONTEND=noninteractive PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore',
        # A node that just booted may still be updating itself, and apt-get does not wait for all the locks that this
        # holds: try again. A restart leaves packages half installed: repair them.
        'if [ -n "$(dpkg --audit)" ] || ! python3 -m pip --version >/dev/null 2>&1; then '
        'until dpkg --configure -a; apt-get -q update '
        '&& apt-get -qy --no-install-recommends --fix-broken install '
        '&& apt-get -qy --no-install-recommends install python3-pip; '
        'do (( SECONDS < 300 )) || exit 1; sleep 5; done; fi',
        f'python3 -m pip install --quiet --no-cache-dir --disable-pip-version-check {shlex.quote(requirement)}',
        has_module,
    ]


def sas_signing_key(blob_service_client: BlobServiceClient, expiry: datetime.datetime) -> dict[str, Any]:
    """Returns the argument with which generate_blob_sas() and generate_container_sas() sign.

    That is account_key, or user_delegation_key for a client that has signed in with Entra ID: then Storage is asked for
    a key that outlasts the signature's expiry (UTC), at most five days ahead.

    Raises what the client raises, for instance when the user's role does not allow it.
    """
    account_key = getattr(blob_service_client.credential, 'account_key', None)
    if account_key:
        return {'account_key': account_key}
    return {'user_delegation_key': _lent_key(blob_service_client, expiry.date())}


@functools.lru_cache(maxsize=1)  # a run with thousands of files needs one key
def _lent_key(blob_service_client: BlobServiceClient, last_day: datetime.date) -> UserDelegationKey:
    # Seven days are the most: https://learn.microsoft.com/rest/api/storageservices/get-user-delegation-key
    end = datetime.datetime.combine(last_day, datetime.time.max, datetime.timezone.utc) + datetime.timedelta(days=1)
    # A clock that is ahead of Azure's would make a key that is not valid yet.
    start = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=15)
    return blob_service_client.get_user_delegation_key(start, end)


class TasksNotAddedError(RuntimeError):
    """The Batch service took no task; the text says what it answered."""


@contextmanager
def no_endless_retries(batch_service_client: BatchServiceClient) -> Iterator[None]:
    """Within it, add_collection ends once the service has taken no task for a minute, whatever it answers.

    After an answer of 500 or more, the SDK sends the same tasks again, without pause and without end; so it does with
    a task that failed for a "servererror". Here it pauses, and then ends with a CreateTasksErrorException whose errors
    name the answer.
    """
    last_success, pause = time.monotonic(), 0.1

    def watch(answer: requests.Response, *_: Any, **__: Any) -> None:
        """Sees each answer before the SDK does. Any error that is not the SDK's own ends add_collection."""
        nonlocal last_success, pause
        code, in_trouble = _code_and_trouble(answer)
        what = f'{answer.status_code} {answer.reason}'
        if code is None:
            # The SDK would trip over it.
            raise TasksNotAddedError(f'The Batch service took no task. The answer, {what}, did not come from it: '
                                     'is there a proxy in between?')
        if not in_trouble:
            last_success, pause = time.monotonic(), 0.1
            return
        if time.monotonic() + pause - last_success > _ADDING_SECONDS:
            raise TasksNotAddedError(f'The Batch service has taken no task for {_ADDING_SECONDS} seconds. It answers '
                                     f'{what}{f" ({code})" if code else ""}: try again later.')
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    batch_service_client.config.hooks.append(watch)
    try:
        yield
    finally:
        batch_service_client.config.hooks.remove(watch)


def _code_and_trouble(answer: requests.Response) -> tuple[str | None, bool]:
    """Returns the code of an error, and whether the SDK would send all tasks again.

    The code is '' for an answer that is no error, and None for one that cannot be from Batch.
    """
    try:
        body = answer.json()
        if answer.ok:
            return '', {str(result['status']).lower() for result in body['value']} == {'servererror'}
        # Where the message is something else, the SDK finds no code either.
        if isinstance(body['code'], str) and isinstance(body.get('message', {}), dict):
            return body['code'], answer.status_code >= 500
    except (requests.JSONDecodeError, AttributeError, KeyError, TypeError):
        pass
    return None, False


class InterruptedQuestion(KeyboardInterrupt):
    """Ctrl-C was the answer to a question: a KeyboardInterrupt for whoever does not care."""


def query_yes_no(question: str, default: str = 'yes', *, ask: bool = True) -> str:
    """Asks a question, and returns 'yes' or 'no'.

    ENTER alone answers with the default. So does the end of the input (Ctrl-D), and the function itself where there is
    no terminal to ask at or when ask is False; then it shows the answer. Raises InterruptedQuestion for Ctrl-C.
    """
    prompt = f'{question} {"[Y/n]" if default == "yes" else "[y/N]"}'
    if not ask or not can_ask():
        print(f'{prompt} {default}')
        return default
    while True:
        try:
            answer = input(f'{prompt} ').strip().lower() or default
        except EOFError:
            answer = default
            print(answer)
        except KeyboardInterrupt:
            print()
            raise InterruptedQuestion from None
        if answer in ('y', 'yes'):
            return 'yes'
        if answer in ('n', 'no'):
            return 'no'
        print("Please respond with 'yes' or 'no' (or 'y' or 'n').")


def wait_for_enter(prompt: str, *, ask: bool = True) -> None:
    """Prints the prompt and waits for ENTER, but not where there is no terminal, nor when ask is False.

    Ctrl-C and the end of the input are as good as ENTER.
    """
    if not ask or not can_ask():
        print(prompt)
        return
    try:
        input(prompt)
    except (EOFError, KeyboardInterrupt):
        print()


def can_ask() -> bool:
    """Says whether somebody sits at a terminal, to answer questions."""
    # There is no standard input at all under pythonw.exe, or once it has been closed.
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()


def print_batch_exception(
        batch_exception: batchmodels.BatchErrorException | CreateTasksErrorException) -> None:
    """Prints what the Batch service said about an error: its message, its code and every detail; no secrets.

    Works for any answer, also for one that did not come from the Batch service and has no details.
    """
    print(_RULE)
    print('Exception encountered:')
    for text in _explanations(batch_exception):
        print(without_secrets(text))
    print(_RULE)


def _explanations(batch_exception: Exception) -> Iterator[str]:
    if isinstance(batch_exception, CreateTasksErrorException):
        for error in batch_exception.errors:
            yield from _explanations(error)
        for failure in batch_exception.failure_tasks:
            yield f'Task {failure.task_id}:'
            yield from _explanation(failure.error)
        return
    explained = list(_explanation(getattr(batch_exception, 'error', None)))
    # An answer that is not JSON leaves the exception with nothing but its own message.
    yield from explained or [getattr(batch_exception, 'message', None) or str(batch_exception)
                             or repr(batch_exception)]


def _explanation(error: batchmodels.BatchError | None) -> Iterator[str]:
    message = getattr(getattr(error, 'message', None), 'value', None)
    if message:
        yield message
    details = getattr(error, 'values', None)
    code = error.code if isinstance(error, batchmodels.BatchError) else None
    if details or code:
        yield ''
        for detail in details if isinstance(details, list) else ():
            yield f'{detail.key}:\t{detail.value}'
        yield f'Code:\t{code}'
