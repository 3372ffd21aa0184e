"""Against errors that nobody understands: one line says what was wrong, and which setting to look at."""
from __future__ import annotations

import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from azure.batch.custom.custom_errors import CreateTasksErrorException
from azure.batch.models import BatchError, BatchErrorException
from azure.core.exceptions import (AzureError, ClientAuthenticationError, DeserializationError, ServiceRequestError,
                                   ServiceResponseError)
from msrest.exceptions import ClientRequestError
from urllib3.exceptions import HTTPError

from common.guards.accounts import spelled_out
from common.loopback import is_loopback
from common.redaction import without_secrets

# Both services refuse requests that are 15 minutes off.
_CLOCK_TOLERANCE_SECONDS = 10 * 60


class _Service(NamedTuple):
    name: str
    address: str
    credentials: str
    role: str


# The roles: https://learn.microsoft.com/azure/batch/batch-role-based-access-control and
# https://learn.microsoft.com/azure/storage/blobs/authorize-access-azure-active-directory. The latter one also
# allows asking for the key that signs a SAS.
_BATCH = _Service('Batch account', spelled_out('batch_account_url'),
                  spelled_out('batch_account_name', 'batch_account_key'), 'Azure Batch Data Contributor')
_STORAGE = _Service('storage account', spelled_out('storage_account_name', 'storage_account_url'),
                    spelled_out('storage_account_name', 'storage_account_key'), 'Storage Blob Data Contributor')
_BOTH_KEYS = spelled_out('batch_account_key', 'storage_account_key')


def one_line(error: BaseException) -> str:
    """Returns one line that says what was wrong, without secrets. Does not fail, whatever the error is."""
    if isinstance(error, CreateTasksErrorException) and error.errors:
        error = error.errors[0]
    return without_secrets(_first_line(_advice(error) or _own_text(error))) or type(error).__name__


def _advice(error: BaseException) -> str | None:
    """Returns what names the setting, the role or whatever else to look at; None if that is not it."""
    if isinstance(error, BatchErrorException) and isinstance(error.response, requests.Response):
        code = error.error.code if isinstance(error.error, BatchError) else ''
        details = getattr(error.error, 'values', None) or ()
        if any('SharedKey is not allowed' in str(getattr(detail, 'value', '')) for detail in details):
            code = 'KeyBasedAuthenticationNotPermitted'
        # An answer to HEAD has no body to tell the code.
        is_batch = code or error.response.request.method == 'HEAD'
        return _refusal(_BATCH, code or '', error.response) if is_batch else _stranger(_BATCH, error.response)
    if isinstance(error, ClientRequestError):
        return _no_answer(_BATCH, error)
    if isinstance(error, DeserializationError):
        return (f'What answers as the Batch account does not answer as Batch does: look at {_BATCH.address}. '
                f'{_first_line(error)}')
    if isinstance(error, (ServiceRequestError, ServiceResponseError)):
        return _no_answer(_STORAGE, error)
    # Both SDKs have wrapped what breaks between them and a service.
    if isinstance(error, BrokenPipeError):
        return 'Standard output cannot be written to.'
    if isinstance(error, ClientAuthenticationError) and not hasattr(error, 'error_code'):
        return (f'Signing in with Entra ID failed: run "az login", or set the keys of the accounts: {_BOTH_KEYS}. '
                f'{_first_line(error)}')
    if isinstance(error, AzureError) and hasattr(getattr(error, 'response', None), 'request'):
        code = getattr(error, 'error_code', None) or ''
        is_storage = code or 'x-ms-request-id' in error.response.headers
        return (_refusal(_STORAGE, str(getattr(code, 'value', code)), error.response) if is_storage
                else _stranger(_STORAGE, error.response))
    return None


def _own_text(error: BaseException) -> object:
    # Not str() for these two: of an answer that is not JSON, that fails.
    if isinstance(error, CreateTasksErrorException) and error.failure_tasks:
        first, others = error.failure_tasks[0], len(error.failure_tasks) - 1
        return (f'Batch refuses task {first.task_id}{f", and {others} more" if others else ""}: '
                f'{_message_and_code(first.error)}')
    if isinstance(error, BatchErrorException):
        return _message_and_code(error.error) or error.message
    return getattr(error, 'message', None) or error


def _message_and_code(error: object) -> str:
    """Returns 'message (code)', with what there is of it: any part of an answer can be missing, or something else."""
    code = error.code if isinstance(error, BatchError) else None
    message = _first_line(getattr(getattr(error, 'message', None), 'value', None) or '')
    return f'{message or "Batch gives no reason"} ({code})' if code else message


def _refusal(service: _Service, code: str, response: Any) -> str | None:
    host, signed_in = _host(response), str(response.request.headers.get('Authorization')).startswith('Bearer')
    who = f'The {service.name} at {host}'
    ahead = _seconds_ahead(response.headers.get('Date'))
    if code == 'KeyBasedAuthenticationNotPermitted':
        return f'{who} takes no account keys: leave both account keys empty to sign in with Entra ID: {_BOTH_KEYS}.'
    if code == 'AccountIsDisabled':
        return f'{who} is disabled: see the portal.'
    # Azurite says so of a wrong name or key, Azure of a network that it keeps out.
    if code == 'AuthorizationFailure' and not is_loopback(f'//{host}'):
        or_else = f'ask for the role {service.role}' if signed_in else f'look at {service.credentials}'
        return (f'{who} does not let you in from here ({code}): look at its networking settings in the portal, or '
                f'{or_else}.')
    if response.status_code not in (401, 403):
        return None
    if abs(ahead) > _CLOCK_TOLERANCE_SECONDS:
        return (f'{who} refuses you because the clock of this machine is {abs(ahead) / 60:.0f} minutes '
                f'{"ahead" if ahead > 0 else "behind"}: set it right.')
    if signed_in:
        return f'{who} refuses you as the one who is signed in: ask for the role {service.role} on this account.'
    return f'{who} refuses the key: look at {service.credentials}.'


def _stranger(service: _Service, response: Any) -> str:
    # A proxy or a gateway also says 502 for a service that is in trouble.
    advice = 'try again later' if response.status_code >= 500 else f'look at {service.address}'
    return (f'What answers at {_host(response)}, {response.status_code} {response.reason}, is not a {service.name}: '
            f'{advice}.')


def _host(response: Any) -> str | None:
    return urlsplit(str(response.request.url)).hostname


def _seconds_ahead(date: object) -> float:
    try:
        return time.time() - parsedate_to_datetime(str(date)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _no_answer(service: _Service, error: BaseException) -> str:
    """Says why there is no connection: each library on the way has wrapped the cause into an error of its own."""
    causes = list(_causes(error))
    text = ' '.join(map(str, causes))
    found = re.search(r"host='([^']+)', port=(\d+)", text)
    who = f'the {service.name}{f" at {found[1]}" if found else ""}'
    if 'proxy' in text.lower():
        return (f'No connection to the {service.name}: the proxy does not let us through; look at HTTPS_PROXY and '
                'NO_PROXY.')
    if 'CERTIFICATE_VERIFY' in text:
        told = re.search(r'verify failed: ([^(\]]+)', text)
        reason = told[1].strip(' .') if told else 'its check failed'
        return (f'The certificate of {who} is not trusted ({reason}): look at {service.address} and at the clock; '
                'if there is a proxy, name its certificate in REQUESTS_CA_BUNDLE.')
    if re.search(r'[Rr]esolve|getaddrinfo|Name or service', text):
        return f'No connection to {who}: nobody knows this name. Look at {service.address}, then at your network.'
    reasons = {'timed out': 'it does not answer', 'refused': 'it is refused', 'WRONG_VER': 'it does not speak https'}
    reason = next((said for pattern, said in reasons.items() if pattern in text),
                  _first_line(causes[-1]) or type(causes[-1]).__name__)
    what_to_do = (' Is the service on this machine running?' if found and is_loopback(f'//{found[1]}')
                  else f' Look at {service.address}, then at your network.')
    return f'No connection to {who}: {reason}.{what_to_do}'


def _causes(error: BaseException) -> Iterator[BaseException]:
    yield error
    cause = getattr(error, 'inner_exception', None) or error.__cause__ or error.__context__
    # Beyond what libraries on the way raise is what the program was doing about another error.
    if isinstance(cause, (OSError, HTTPException, HTTPError)):
        yield from _causes(cause)


def _first_line(text: object) -> str:
    return (str(text).strip().splitlines() or [''])[0]
