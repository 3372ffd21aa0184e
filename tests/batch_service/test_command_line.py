"""``python -m common.batch_service``: what it says when it cannot start, and what it logs."""

from __future__ import annotations

import resource
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from .workbench import PROJECT, ServiceProcess


def run(*options: str, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, '-m', 'common.batch_service', *options], cwd=PROJECT, timeout=20,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, **how)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / 'key'
    file.write_text('a2V5')
    return file


def test_port_in_use_is_named(shared_service, tmp_path, key_file) -> None:
    port = str(urlsplit(shared_service.url).port)
    result = run('--workspace', str(tmp_path), '--account', 'a', '--key-file', str(key_file), '--port', port)
    assert result.returncode == 1
    assert result.stderr == (f'The Batch service cannot start: port {port} on 127.0.0.1 cannot be used: '
                             'Address already in use\n')


def test_number_that_is_no_port_is_refused(tmp_path, key_file) -> None:
    result = run('--workspace', str(tmp_path), '--account', 'a', '--key-file', str(key_file), '--port', '65536')
    assert result.returncode == 2
    assert result.stderr.endswith('argument --port: 65536 is not a whole number from 0 to 65535\n')


def test_missing_key_file_is_named(tmp_path) -> None:
    result = run('--workspace', str(tmp_path), '--account', 'a', '--key-file', str(tmp_path / 'nowhere'))
    assert result.returncode == 1
    assert result.stderr.count('\n') == 1
    assert 'nowhere' in result.stderr


def test_key_that_is_not_base64_is_refused_without_showing_it(tmp_path, key_file) -> None:
    key_file.write_text('not-a-key!')
    result = run('--workspace', str(tmp_path), '--account', 'a', '--key-file', str(key_file))
    assert result.returncode == 1
    assert result.stderr.count('\n') == 1
    assert 'not-a-key' not in result.stderr


@pytest.mark.parametrize(('make', 'reason'), [
    (lambda file: file.write_bytes(b'nothing that SQLite reads' * 100), 'file is not a database'),
    (lambda file: sqlite3.connect(file).execute('CREATE TABLE theirs (a)').connection.close(), 'another version'),
    (lambda file: file.mkdir(), 'Is a directory')])
def test_database_that_cannot_be_used_is_named_in_one_line(tmp_path, key_file, make, reason) -> None:
    (tmp_path / 'batch').mkdir()
    make(tmp_path / 'batch' / 'batch.db')
    result = run('--workspace', str(tmp_path), '--account', 'a', '--key-file', str(key_file))
    assert result.returncode == 1
    assert result.stderr.startswith('The Batch service cannot start: the database ')
    assert result.stderr.count('\n') == 1
    assert str(tmp_path / 'batch' / 'batch.db') in result.stderr and reason in result.stderr


def test_workspace_that_cannot_be_written_to_is_named_in_one_line(key_file) -> None:
    # Not even root makes a directory there.
    result = run('--workspace', '/sys/nowhere', '--account', 'a', '--key-file', str(key_file))
    assert result.returncode == 1
    assert result.stderr.count('\n') == 1
    assert '/sys/nowhere' in result.stderr


@pytest.mark.parametrize('size', [0, 2_000, 20_000, 50_000])
def test_full_disk_is_named_in_one_line(tmp_path, key_file, size) -> None:
    result = run('--workspace', str(tmp_path), '--account', 'a', '--key-file', str(key_file),
                 preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
    assert result.returncode == 1
    assert result.stderr.count('\n') == 1, result.stderr
    assert result.stderr.startswith('The Batch service cannot ')


def test_log_has_a_line_for_each_request_and_no_secret(tmp_path) -> None:
    log = tmp_path / 'log'
    with open(log, 'w') as stderr:
        service = ServiceProcess(tmp_path, '--verbose', stderr=stderr)
        assert list(service.client().pool.list()) == []
        assert service.stop() == 0
    text = log.read_text()
    assert 'GET /pools 200' in text
    assert 'SharedKey' not in text and service.key_file.read_text() not in text


def test_end_of_standard_input_ends_the_service(own_service) -> None:
    assert own_service.stop() == 0


def test_sigterm_ends_the_service(own_service) -> None:
    own_service.process.terminate()
    assert own_service.process.wait(timeout=20) == 0
