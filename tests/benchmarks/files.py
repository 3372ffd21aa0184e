"""What the client does with many input files, on this machine: ``python -m tests.benchmarks.files [files ...]``.

The whole client runs against both local services, with a task script that does nothing but upload a line. Run by
hand; prints a table.
"""
from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

_TASK = '''
import socket, sys
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
_, _, host, path = arguments['--storageurl'].split('/', 3)
name = arguments['--filepath'].removeprefix('./').replace('.txt', '_OUTPUT.txt')
with socket.create_connection(host.split(':')) as connection:
    connection.sendall(f"""PUT /{path}/{arguments['--storagecontainer']}/{name}?{arguments['--sastoken']} HTTP/1.1
Host: {host}
Connection: close
Content-Length: 6
x-ms-blob-type: BlockBlob
x-ms-version: 2021-12-02

a line""".replace(chr(10), chr(13) + chr(10)).encode())
    sys.exit(not connection.recv(100).startswith(b'HTTP/1.1 201 '))
'''
_CLIENT = '''
import pathlib, sys
import python_tutorial_client as client
client._TASK_SCRIPT = pathlib.Path(sys.argv.pop(1))
client._TUTORIAL_TASK_FILE = client._TASK_SCRIPT.name
commands = client.start_task_commands
client.start_task_commands = lambda: commands()[:1]
code = client.main()
print('memory', pathlib.Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])
sys.exit(code)
'''
_STEPS = {'uploads': 'Creating pool', 'tasks': '  Success!', 'downloads': 'Deleting containers',
          'deleting': 'Sample end'}


def main(numbers: list[int]) -> None:
    print(f'{"files":>7}  ' + '  '.join(f'{step:>9}' for step in _STEPS) + '  client')
    for number in numbers:
        seconds, memory = run(number)
        print(f'{number:>7,}  ' + '  '.join(f'{step:>7.2f} s' for step in seconds) + f'  {memory:.0f} MB', flush=True)


def run(number: int) -> tuple[list[float], float]:
    """Returns the seconds that each step takes, and the most memory of the client in MB."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / 'task.py').write_text(_TASK)
        inputs = [f'{index}.txt' for index in range(number)]
        for path in inputs:
            (directory / path).write_text('some words, and some more words\n' * 30)
        (directory / 'results').mkdir()
        environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).resolve().parents[2]),
                       'AZURE_BATCH_TUTORIAL_WORKSPACE': str(directory / 'azure')}
        with subprocess.Popen(
                [sys.executable, '-c', _CLIENT, directory / 'task.py', '--yes', '--output-dir', 'results', *inputs],
                cwd=directory, env=environment, stdout=subprocess.PIPE, text=True) as client:
            begins = {}
            for line in client.stdout:
                for moment in ('Uploading', *_STEPS.values(), 'memory'):
                    if line.startswith(moment):
                        begins.setdefault(moment, (time.perf_counter(), line))
        if client.returncode:
            raise SystemExit(f'The client failed with {number} files.')
        moments = [begins[moment][0] for moment in ('Uploading', *_STEPS.values())]
        return [end - begin for begin, end in pairwise(moments)], int(begins['memory'][1].split()[1]) / 1024


if __name__ == '__main__':
    main([int(argument) for argument in sys.argv[1:]] or [100, 1_000, 10_000])
