"""What the errors of the Azure SDKs mean for a reader: one line, with the setting to look at."""
from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import requests
from azure.batch.custom.custom_errors import CreateTasksErrorException
from azure.batch.models import BatchError, BatchErrorException
from azure.core.exceptions import (ClientAuthenticationError, HttpResponseError, ServiceRequestError,
                                   ServiceResponseError)
from msrest.exceptions import ClientRequestError

from common.accounts import spelled_out
from common.loopback import is_loopback
from common.redaction import without_secrets

# Both services refuse requests that are 15 minutes off.
_CLOCK_TOLERANCE_SECONDS = 10 * 60


@dataclass(frozen=True)
class _Service:
    name: str
    address: str
    account: str
    key: str
    role: str


# The roles: https://learn.microsoft.com/azure/batch/batch-role-based-access-control and
# https://learn.microsoft.com/azure/storage/blobs/authorize-access-azure-active-directory. The latter one also
# allows to ask for the key that signs a SAS.
_BATCH = _Service('Batch account', spelled_out('batch_account_url'), spelled_out('batch_account_name'),
                  spelled_out('batch_account_key'), 'Azure Batch Data Contributor')
_STORAGE = _Service('storage account', spelled_out('storage_account_name', 'storage_account_url'),
                    spelled_out('storage_account_name'), spelled_out('storage_account_key'),
                    'Storage Blob Data Contributor')
_SIGN_IN_INSTEAD = ('leave both account keys empty to sign in with Entra ID: '
                    + spelled_out('batch_account_key', 'storage_account_key'))


def one_line(error: BaseException) -> str:
    """Returns one line that says what was wrong, without secrets. Does not fail, whatever the error is."""
    text = (settings_advice(error) or _own_text(error)).strip()
    return without_secrets(text.splitlines()[0]) if text else type(error).__name__


def settings_advice(error: BaseException) -> str | None:
    """Returns one line that names the setting, the role or whatever else to look at; None if that is not it."""
    if isinstance(error, CreateTasksErrorException) and error.errors:
        return settings_advice(error.errors[0])
    if isinstance(error, BatchErrorException):
        return _batch_refusal(error)
    if isinstance(error, ClientRequestError):
        return _no_answer(_BATCH, error)
    if isinstance(error, (ServiceRequestError, ServiceResponseError)):
        return _no_answer(_STORAGE, error)
    if isinstance(error, ClientAuthenticationError) and not hasattr(error, 'error_code'):
        return ('Signing in with Entra ID failed: run "az login", or set the keys of the accounts: '
                f'{spelled_out("batch_account_key", "storage_account_key")}. {_first_line(error)}')
    if isinstance(error, HttpResponseError):
        return _storage_refusal(error)
    return None


def _own_text(error: BaseException) -> str:
    # Not str() for these two: of an answer that is not JSON, that fails.
    if isinstance(error, CreateTasksErrorException) and (error.errors or error.failure_tasks):
        return one_line(error.errors[0]) if error.errors else f'Task {error.failure_tasks[0].task_id} was refused.'
    if isinstance(error, BatchErrorException):
        code, message = batch_code(error), getattr(getattr(error.error, 'message', None), 'value', None)
        return f'{_first_line(message or error.message)}{f" ({code})" if code else ""}'
    return str(getattr(error, 'message', None) or error)


def batch_code(error: BatchErrorException) -> str | None:
    """Returns the code of the error, such as PoolExists; None when the answer did not come from Batch."""
    return error.error.code if isinstance(error.error, BatchError) else None


def _batch_refusal(error: BatchErrorException) -> str | None:
    response = error.response
    if not isinstance(response, requests.Response):
        return None
    request, status = response.request, response.status_code
    host = urlsplit(request.url or '').hostname
    code = batch_code(error)
    if code is None and request.method != 'HEAD':
        # A proxy or a gateway also says 502 for a service that is in trouble.
        advice = 'try again later' if status >= 500 else f'look at {_BATCH.address}'
        return f'What answers at {host}, {status} {response.reason}, is not a Batch account: {advice}.'
    if code == 'AccountIsDisabled':
        return f'The Batch account at {host} is disabled: see the portal.'
    if status not in (401, 403):
        return None
    details = ' '.join(str(detail.value) for detail in getattr(error.error, 'values', None) or ())
    if 'SharedKey is not allowed' in details:
        return f'The Batch account at {host} takes no account keys: {_SIGN_IN_INSTEAD}.'
    return _refused(_BATCH, host, response)


def _storage_refusal(error: HttpResponseError) -> str | None:
    code = getattr(error, 'error_code', None)
    code = getattr(code, 'value', code)
    response: Any = error.response
    if response is None or not hasattr(response, 'request'):
        return None
    request = response.request
    host = urlsplit(str(request.url)).hostname
    if code == 'KeyBasedAuthenticationNotPermitted':
        return f'The storage account at {host} takes no account keys: {_SIGN_IN_INSTEAD}.'
    if code == 'AccountIsDisabled':
        return f'The storage account at {host} is disabled: see the portal.'
    if code == 'AuthorizationFailure':
        or_else = f'ask for the role {_STORAGE.role}' if _signed_in(request) else f'look at {_STORAGE.key}'
        return (f'The storage account at {host} does not let you in from here (AuthorizationFailure): look at its '
                f'networking settings in the portal, or {or_else}.')
    if response.status_code in (401, 403):
        return _refused(_STORAGE, host, response)
    if not code and 'x-ms-request-id' not in response.headers:
        advice = 'try again later' if response.status_code >= 500 else f'look at {_STORAGE.address}'
        return (f'What answers at {host}, {response.status_code} {response.reason}, is not a storage account: '
                f'{advice}.')
    return None


def _refused(service: _Service, host: str | None, response: Any) -> str:
    who = f'The {service.name} at {host}'
    ahead = _seconds_ahead(response.headers.get('Date'))
    if abs(ahead) > _CLOCK_TOLERANCE_SECONDS:
        return (f'{who} refuses you because the clock of this machine is {abs(ahead) / 60:.0f} minutes '
                f'{"ahead" if ahead > 0 else "behind"}: set it right.')
    if _signed_in(response.request):
        return f'{who} refuses you as the one who is signed in: ask for the role {service.role} on this account.'
    return f'{who} refuses the key: look at {service.account} and {service.key}.'


def _signed_in(request: Any) -> bool:
    return str(request.headers.get('Authorization')).startswith('Bearer')


def _seconds_ahead(date: object) -> float:
    try:
        return time.time() - parsedate_to_datetime(str(date)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _no_answer(service: _Service, error: ClientRequestError | ServiceRequestError | ServiceResponseError) -> str:
    """Says why there is no connection: each library on the way has wrapped the cause into an error of its own."""
    causes = list(_causes(error))
    text = ' '.join(map(str, causes))
    found = re.search(r"host='([^']+)', port=(\d+)", text)
    who = f'the {service.name}{f" at {found[1]}" if found else ""}'
    # The Storage SDK names the proxy as if it were the service.
    if 'proxy' in text.lower() or found and _is_proxy(found[1], int(found[2])):
        return (f'No connection to the {service.name}: the proxy does not let us through; look at HTTPS_PROXY and '
                'NO_PROXY.')
    if 'CERTIFICATE_VERIFY' in text:
        told = re.search(r'verify failed: ([^(\]]+)', text)
        reason = told[1].strip(' .') if told else 'its check failed'
        return (f'The certificate of {who} is not trusted ({reason}): look at {service.address} and at the clock; '
                'if there is a proxy, name its certificate in REQUESTS_CA_BUNDLE.')
    if re.search(r'[Rr]esolve|getaddrinfo|Name or service', text):
        return (f'No connection to {who}: nobody knows this name. Look at {service.address}, then at your '
                'network.')
    if busy := re.search(r'too many (\d+) error responses', text):
        return f'T{who[1:]} is in trouble, it keeps answering {busy[1]}: try again later.'
    if found and is_loopback(f'//{found[1]}'):
        return f'No connection to {who}: {_reason(causes)}. Is the service on this machine running?'
    return f'No connection to {who}: {_reason(causes)}. Look at {service.address}, then at your network.'


def _is_proxy(host: str, port: int) -> bool:
    proxies = map(urlsplit, getproxies().values())
    return (host, port) in {(proxy.hostname, proxy.port) for proxy in proxies}


def _reason(causes: list[BaseException]) -> str:
    text = ' '.join(map(str, causes))
    if re.search('timed out', text, re.IGNORECASE):
        return 'it does not answer'
    if re.search('refused', text, re.IGNORECASE):
        return 'it is refused'
    if re.search('WRONG_VERSION_NUMBER', text):
        return 'it does not speak https'
    return _first_line(causes[-1]) or type(causes[-1]).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: object = error
    while isinstance(current, BaseException) and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = getattr(current, 'inner_exception', None) or current.__cause__ or current.__context__


def _first_line(text: object) -> str:
    return (str(text).strip().splitlines() or [''])[0]
