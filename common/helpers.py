"""Small things that any Batch client needs."""
from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence

import azure.batch.models as batchmodels
from azure.batch import BatchServiceClient
from azure.batch.custom.custom_errors import CreateTasksErrorException

from common.redaction import without_secrets

_RULE = '-' * 43


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


def query_yes_no(question: str, default: str = 'yes', *, ask: bool = True) -> str:
    """Asks a question, and returns 'yes' or 'no'.

    ENTER alone answers with the default. So does the function itself, and shows it, when there is no terminal
    to ask at, or when ask is False.
    """
    prompt = f'{question} {"[Y/n]" if default == "yes" else "[y/N]"}'
    if not ask or not _has_terminal():
        print(f'{prompt} {default}')
        return default
    while True:
        answer = _read_line(f'{prompt} ').strip().lower() or default
        if answer in ('y', 'yes'):
            return 'yes'
        if answer in ('n', 'no'):
            return 'no'
        print("Please respond with 'yes' or 'no' (or 'y' or 'n').")


def wait_for_enter(prompt: str, *, ask: bool = True) -> None:
    """Prints the prompt and waits for ENTER, but not where there is no terminal, nor when ask is False."""
    if ask and _has_terminal():
        _read_line(prompt)
    else:
        print(prompt)


def _has_terminal() -> bool:
    # There is no standard input at all under pythonw.exe, or once it has been closed.
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()


def _read_line(prompt: str) -> str:
    try:
        return input(prompt)
    except EOFError:
        print()
        return ''


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
