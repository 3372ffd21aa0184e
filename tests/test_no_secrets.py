"""A whole run, with --verbose, shows no secret: not on the screen, and not in the logs of the local services."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

PROJECT = Path(__file__).resolve().parent.parent

# Notes every signature that the SDKs make, then is the client.
NOTING = '''
import runpy, sys
import azure.batch.batch_auth, azure.storage.blob._shared.authentication, azure.storage.blob._shared_access_signature
from azure.batch.batch_auth import SharedKeyAuth

client, kind_of_notes, *sys.argv[1:] = sys.argv[1:]

def noting(make, kind):
    def sign(*arguments, **options):
        signature = make(*arguments, **options)
        with open(kind_of_notes, "a") as notes:
            print(kind, signature, file=notes)
        return signature
    return sign

SharedKeyAuth._sign_string = noting(SharedKeyAuth._sign_string, "batch")
for module, kind in ((azure.storage.blob._shared.authentication, "storage"),
                     (azure.storage.blob._shared_access_signature, "sas")):
    module.sign_string = noting(module.sign_string, kind)
sys.argv[0] = client
runpy.run_path(client, run_name="__main__")
'''


@pytest.mark.real
@pytest.mark.usefixtures('azurite_install')
@pytest.mark.parametrize('broken', [False, True])
def test_a_verbose_run_shows_its_calls_and_no_secret(home: Path, tmp_path: Path, broken: bool) -> None:
    notes = tmp_path / 'notes'
    client = PROJECT / 'python_tutorial_client.py'
    text = tmp_path / 'a text.txt'
    text.write_text('some words')
    # A job of this name cannot be: an error of the service ends that run, in the middle.
    program = NOTING.replace('runpy.run_path(client, run_name="__main__")', '''
sys.path.insert(0, client.rpartition("/")[0])
import python_tutorial_client
python_tutorial_client._JOB_ID = "no such name!"
sys.exit(python_tutorial_client.main())''') if broken else NOTING

    ran = subprocess.run([sys.executable, '-c', program, str(client), str(notes), '--yes', '--verbose', str(text)],
                         stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100)

    assert ran.returncode == int(broken), ran.stderr[-2000:]
    # What --verbose is for: requests to both services, with their bodies and answers.
    assert '/addtaskcollection?' in ran.stderr or broken
    assert '/input/a%20text.txt' in ran.stderr and 'sig=...' in ran.stderr
    signatures = [line.split() for line in notes.read_text().splitlines()]
    assert {kind for kind, _ in signatures} == {'batch', 'storage', 'sas'}
    [batch_key] = home.rglob('batch.key')
    values = {batch_key.read_text().strip(), batch_key.with_name('storage.key').read_text().strip(),
              *(signature for _, signature in signatures)}
    logs = {path: path.read_text(errors='replace') for path in home.rglob('*.log')}
    assert len(logs) == 2
    for shown in (ran.stdout, ran.stderr, *logs.values()):
        assert not [value for value in values if value in shown or quote(value, safe='') in shown]
