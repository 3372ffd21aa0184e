"""Whatever is sent, valid or absurd, in the shape of the SDK's models or in none: the service answers, and goes on."""

from __future__ import annotations

import json
import os
import random
import secrets
import time
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import quote

import azure.batch.models as models
import pytest
import requests
from azure.batch.batch_auth import SharedKeyAuth

from common.batch_service.api import ROUTES
from tests.batch_service.workbench import ACCOUNT, ServiceProcess, wait_until

_VERSIONS = ('2024-07-01.20.0', '2025-06-01', '2020-03-01.11.0', '2019-01-01.0.0', '', 'x')
_ABSURD = (None, '', 0, -1, 1, 1.5, True, False, [], {}, [None], {'a': 1}, 'x' * 300, '٣', '²', '\x00', '\ud800',
           '../..', 2 ** 31, 2 ** 63, -2 ** 63 - 1, 10 ** 400, 'P1D', 'P-1D', 'P9999999999D', '2026-01-01T00:00:00Z')
_TEXTS = ('job', 'pool', 'task', 'a', 'standard_d2s_v5', '/bin/true', '/bin/false', 'no-such', 'file:///etc/passwd',
          'http://127.0.0.1:9/x?sig=x', '*.txt', '**/x', '[z-a]', 'terminatejob', 'requeue')
_IDS = ('pool', 'job', 'task', 'a', 'b', 'c')
_KNOWN = {'vmSize': 'standard_d2s_v5', 'nodeAgentSKUId': 'batch.node.ubuntu 24.04', 'publisher': 'canonical',
          'offer': 'ubuntu-24_04-lts', 'sku': 'server', 'commandLine': '/bin/true', 'poolId': 'pool',
          'targetDedicatedNodes': 2, 'targetLowPriorityNodes': 0, 'taskSlotsPerNode': 4, 'requiredSlots': 1}
_NEEDED = ('virtualMachineConfiguration', 'imageReference', 'publisher', 'offer', 'sku', 'poolId', 'taskSlotsPerNode',
           'targetDedicatedNodes')  # what the models do not say
_BODIES = {
    ('POST', '/pools'): 'PoolAddParameter', ('PATCH', '/pools/{pool}'): 'PoolPatchParameter',
    ('POST', '/pools/{pool}/updateproperties'): 'PoolUpdatePropertiesParameter',
    ('POST', '/pools/{pool}/resize'): 'PoolResizeParameter',
    ('POST', '/pools/{pool}/removenodes'): 'NodeRemoveParameter',
    ('POST', '/jobs'): 'JobAddParameter', ('PATCH', '/jobs/{job}'): 'JobPatchParameter',
    ('PUT', '/jobs/{job}'): 'JobUpdateParameter', ('POST', '/jobs/{job}/disable'): 'JobDisableParameter',
    ('POST', '/jobs/{job}/terminate'): 'JobTerminateParameter', ('POST', '/jobs/{job}/tasks'): 'TaskAddParameter',
    ('PUT', '/jobs/{job}/tasks/{task}'): 'TaskUpdateParameter',
    ('POST', '/jobs/{job}/addtaskcollection'): 'TaskAddCollectionParameter',
    ('POST', '/pools/{pool}/nodes/{node}/reboot'): 'NodeRebootParameter',
    ('POST', '/pools/{pool}/nodes/{node}/disablescheduling'): 'NodeDisableSchedulingParameter'}


class Fuzz:
    """Makes up requests, with a share that is as the SDK would send them."""

    def __init__(self, seed: str, most: float = 0.08) -> None:
        """most is the share of optional properties that are sent."""
        self._most = most
        self.random = random.Random(seed)
        self.nodes = ['tvmps_x_d']

    def body(self, method: str, path: str) -> bytes:
        if self.random.random() < 0.05:
            return self.random.choice((b'{', b'[' * 200, b'{"a":1,"a":2}', b'NaN', b'{"id":Infinity}', b'\xff', b'0',
                                       b'"\\ud800"', b'{"priority":' + b'9' * 5000 + b'}', self.random.randbytes(30)))
        name = _BODIES.get((method, path))
        document = self.value(name, 0, absurd=self.random.choice((0.0, 0.0, 0.03, 0.3))) if name else {}
        return json.dumps(document).encode()

    def value(self, kind: str, depth: int, absurd: float, key: str = '') -> Any:
        if self.random.random() < absurd:
            return self.random.choice(_ABSURD)
        if key in _KNOWN and self.random.random() < 0.95:
            return _KNOWN[key]
        if key == 'id':
            return self.random.choice(_IDS)
        if kind.startswith('[') or kind.startswith('{'):
            return [self.value(kind[1:-1], depth + 1, absurd) for _ in range(self.random.choice((0, 1, 1, 2)))]
        model = getattr(models, kind, None)
        if isinstance(model, type) and issubclass(model, Enum):
            return self.random.choice([one.value for one in model])
        if hasattr(model, '_attribute_map'):
            return self.model(model, depth, absurd)
        return {'int': self.random.choice((0, 1, 2, -1, 7)), 'bool': self.random.random() < 0.5,
                'duration': self.random.choice(('PT1M', 'PT10M', 'P1D'))}.get(kind, self.random.choice(_TEXTS))

    def model(self, model: Any, depth: int, absurd: float) -> dict[str, Any]:
        document = {}
        for name, attribute in model._attribute_map.items():
            is_required = model._validation.get(name, {}).get('required')
            if is_required or attribute['key'] in _NEEDED or self.random.random() < self._most:
                document[attribute['key']] = self.value(attribute['type'], depth + 1, absurd, attribute['key'])
        return document

    def query(self) -> str:
        options = {'api-version': self.random.choice(_VERSIONS) if self.random.random() < 0.1 else _VERSIONS[0]}
        for name in ('$filter', '$select', '$expand', '$skiptoken', 'maxresults', 'timeout', 'recursive', 'other'):
            if self.random.random() < 0.02:
                options[name] = str(self.random.choice((
                    "state eq 'active'", "id gt 'a' or startswith(id,'x')", 'id,state', '*', 'stats', 'true', '1', '10',
                    'not ' * 50, '(' * 90, "creationTime lt DateTime'2026-13-01'", *_ABSURD))).encode(
                        errors='replace').decode()
        return '&'.join(f'{name}={quote(value, safe="")}' for name, value in options.items())

    def headers(self) -> dict[str, str]:
        found = {}
        for name in ('If-Match', 'If-None-Match', 'If-Modified-Since', 'If-Unmodified-Since', 'ocp-range',
                     'client-request-id', 'return-client-request-id', 'Accept'):
            if self.random.random() < 0.04:
                found[name] = self.random.choice((
                    '*', '"x"', 'x', 'bytes=0-1', 'bytes=9-', f'bytes={"9" * 99}-', 'true', 'Ã©',
                    'Thu, 01 Jan 1970 00:00:00 GMT', 'Thu, 01 Jan 1970 00:00:00', 'Mon, 32 Foo 0000 99:99:99 -0000'))
        return found

    def path(self, path: str) -> str:
        parts = []
        for part in path.split('/'):
            if part.startswith('{'):
                known = {'{pool}': ['pool', 'POOL', 'a'], '{job}': ['job', 'job', 'a'], '{task}': ['task', 'a'],
                         '{node}': self.nodes, '{path*}': ['stdout.txt', 'wd', 'startup/stdout.txt', '../../batch.db']}
                text = self.random.choice(known.get(part, ['x']) if self.random.random() < 0.9 else
                                          ['', '..', '%00', 'x' * 300, '²', "a'b", '%2e%2e%2f', 'a b'])
                part = quote(text, safe='%')
            parts.append(part)
        return '/'.join(parts)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    with (tmp_path / 'log').open('w') as log:
        service = ServiceProcess(tmp_path, stderr=log)
        yield service
        if service.process.returncode is None:
            service.stop()


def memory_of(process_id: int) -> int:
    """Returns the megabytes of memory of a process."""
    status = Path(f'/proc/{process_id}/status').read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith('VmRSS')) // 1024


@pytest.mark.real
@pytest.mark.timeout(600)
def test_no_request_breaks_the_service(service: ServiceProcess, tmp_path: Path) -> None:
    """The environment variable BATCH_FUZZ says how many requests there are (1000), BATCH_FUZZ_SEED repeats a run."""
    number = int(os.environ.get('BATCH_FUZZ', '1000'))
    seed = os.environ.get('BATCH_FUZZ_SEED') or secrets.token_hex(4)
    print(f'BATCH_FUZZ_SEED={seed}')
    fuzz, least, session = Fuzz(seed), Fuzz(seed, most=0.0), requests.Session()
    session.trust_env = False
    session.auth = SharedKeyAuth('Authorization', ACCOUNT, service.key_file.read_text())
    before, longest, answers = memory_of(service.process.pid), 0.0, {}

    def send(method: str, path: str, query: str = f'api-version={_VERSIONS[0]}', **options: Any) -> requests.Response:
        return session.request(method, f'{service.url}{path}?{query}', timeout=20, **options)

    for count in range(number):
        if count % 50 == 0:
            # Most requests are to something that is there.
            for path, name in (('/pools', 'PoolAddParameter'), ('/jobs', 'JobAddParameter'),
                               ('/jobs/job/tasks', 'TaskAddParameter')):
                document = {**least.value(name, 0, 0.0), 'id': path.rpartition('/')[2][:-1]}
                send('POST', path, json=document, headers={'Content-Type': 'application/json'})
            listed = send('GET', '/pools/pool/nodes').json().get('value', ())
            fuzz.nodes = ['tvmps_x_d', *(node['id'] for node in listed)]
        route = fuzz.random.choice(ROUTES)
        method = route.method if fuzz.random.random() < 0.97 else fuzz.random.choice(('POST', 'BREW', 'OPTIONS'))
        headers = {'Content-Type': 'application/json; odata=minimalmetadata'} if fuzz.random.random() < 0.98 else {}
        body = fuzz.body(route.method, route.path) if method in ('POST', 'PUT', 'PATCH') else None
        path, query, headers = fuzz.path(route.path), fuzz.query(), {**headers, **fuzz.headers()}
        began = time.monotonic()
        answer = send(method, path, query, data=body, headers=headers)
        taken = time.monotonic() - began
        longest = max(longest, taken)
        answers[answer.status_code] = answers.get(answer.status_code, 0) + 1
        what = f'{method} {path}?{query} {headers} {body!r}: {answer.status_code} {answer.text[:300]}, {taken:.1f} s'
        assert answer.status_code < 500 and taken < 2, what

    print(f'{number} requests, longest {longest:.2f} s, answers {answers}')
    for kind in ('jobs', 'pools'):
        for found in send('GET', f'/{kind}').json()['value']:
            send('DELETE', f'/{kind}/{found["id"]}')
        wait_until(lambda: send('GET', f'/{kind}').json()['value'] == [], 60)
    # What 20,000 requests leave is what an allocator keeps: it does not grow with more of them.
    assert memory_of(service.process.pid) - before < 60
    assert service.stop() == 0
    assert 'Traceback' not in (tmp_path / 'log').read_text()
