"""What is blotted out of everything that is shown."""
from __future__ import annotations

import base64
import logging
import secrets
from urllib.parse import quote

import pytest

from common import redaction
from common.redaction import keep_secret, log_sdk_calls, without_secrets

SIGNATURE = 'J+8rmgtG2TxZ3n0/QpKcY1bVdW4eUhFs5aLiOj7XqRk='
TOKEN = 'eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJodHRwczovL2JhdGNoIn0.c2ln-_bmF0dXJl'


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, '_KEPT', set())


@pytest.mark.parametrize('text, shown', [
    (f'https://a.blob.core.windows.net/o?sp=w&sig={quote(SIGNATURE, safe="")}&se=2026',
     'https://a.blob.core.windows.net/o?sp=w&sig=...&se=2026'),
    (f"--sastoken 'se=2026&sig={quote(SIGNATURE)}' --numwords 3", "--sastoken 'se=2026&sig=...' --numwords 3"),
    ('{"url": "https://a/o?sig=c2VjcmV0"}', '{"url": "https://a/o?sig=..."}'),
    ('sp%3Dw%26sig%3Dc2VjcmV0 end', 'sp%3Dw%26sig%3D... end'),
    ('Authorization: SharedKey mybatch:c2hvcnQ=', 'Authorization: SharedKey mybatch:...'),
    ("'Authorization': 'SharedKeyLite my-batch:c2hvcnQ='", "'Authorization': 'SharedKeyLite my-batch:...'"),
    (f'Authorization: Bearer {TOKEN}', 'Authorization: Bearer ...'),
    ('authorization: bearer abc123', 'authorization: bearer ...'),
    (f'token={TOKEN};', 'token=...;'),
    (f"The MAC signature found, '{SIGNATURE}', is not the same", "The MAC signature found, '...', is not the same"),
    ('The design signals nothing', 'The design signals nothing'),
    ('pools/PythonTutorialPool?api-version=2024', 'pools/PythonTutorialPool?api-version=2024'),
])
def test_secrets_go_and_the_rest_stays(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_an_account_key_goes_wherever_it_is() -> None:
    key = base64.b64encode(secrets.token_bytes(64)).decode()

    assert without_secrets(f'AccountKey={key};x') == 'AccountKey=...;x'


def test_a_kept_secret_goes_in_any_spelling() -> None:
    keep_secret('short+key/==', '')

    assert without_secrets('short+key/== short%2Bkey%2F%3D%3D word') == '... ... word'


@pytest.mark.usefixtures('sdk_loggers')
def test_shown_logs_have_no_secrets_in_arguments_nor_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    log_sdk_calls(shown=True)
    logger = logging.getLogger('azure.core.some_policy')

    logger.debug('Request URL: %r', f'https://a?sig={SIGNATURE}')
    try:
        raise ValueError(f'Bearer {TOKEN}')
    except ValueError:
        logger.exception('It failed')

    output, errors = capsys.readouterr()
    assert output == ''
    assert "azure.core.some_policy DEBUG Request URL: 'https://a?sig=...'" in errors
    assert 'ValueError: Bearer ...' in errors
    assert SIGNATURE not in errors and TOKEN not in errors


@pytest.mark.usefixtures('sdk_loggers')
def test_hidden_logs_hide_warnings_too(capfd: pytest.CaptureFixture[str]) -> None:
    log_sdk_calls(shown=False)

    assert logging.getLogger('azure.identity').hasHandlers()
    logging.getLogger('urllib3.connectionpool').warning('Retrying')

    assert capfd.readouterr() == ('', '')
