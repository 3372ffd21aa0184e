"""How fast tasks that do nothing run, beside GNU parallel and xargs: ``python -m tests.benchmarks.tasks [tasks ...]``.

Two nodes of four slots, and a client that polls the counts; run by hand, prints a table. The peers get as many
processes at once, and their rate is measured in turn with ours.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ..batch_service.workbench import ServiceProcess
from .service import Client, until

_ROUNDS = 3
_PEERS = {'GNU parallel': ('parallel', '-j8', 'true', '#'), 'xargs': ('xargs', '-P8', '-n1', 'true')}


def main(numbers: list[int]) -> None:
    peers = {name: command for name, command in _PEERS.items() if shutil.which(command[0])}
    print(f'{"tasks":>8}  {"round":>5}  {"tasks/s":>8}  {"CPU ms":>6}  '
          + '  '.join(f'{"to " + name:>15}' for name in peers) + '  memory')
    for number in numbers:
        for turn in range(_ROUNDS):
            rate, cpu, memory = ours(number)
            ratios = [rate / theirs(command, number) for command in peers.values()]
            print(f'{number:>8,}  {turn:>5}  {rate:>8,.0f}  {cpu:>6.2f}  '
                  + '  '.join(f'{ratio:>13.2f} x' for ratio in ratios) + f'  {memory:.0f} MB', flush=True)


def ours(number: int) -> tuple[float, float, float]:
    """Tasks a second, milliseconds of the service's own CPU time for each, and its memory in MB."""
    with tempfile.TemporaryDirectory() as directory:
        service = ServiceProcess(Path(directory))
        try:
            client = Client(service)
            client.add_pool('pool', 2)
            until(lambda: client.idle_nodes('pool') == 2)
            client.add_job('job', 'pool', 0, 'true')
            client.send('POST', '/jobs/job/disable', {'disableTasks': 'wait'})
            client.add_tasks('job', number, 'true')
            before = cpu_seconds(service.process.pid)
            began = time.perf_counter()
            client.send('POST', '/jobs/job/enable')
            until(lambda: client.counts('job')['completed'] == number)
            seconds = time.perf_counter() - began
            cpu = cpu_seconds(service.process.pid) - before
            return number / seconds, cpu / number * 1000, memory_of(service.process.pid)
        finally:
            service.stop()


def theirs(command: tuple[str, ...], number: int) -> float:
    began = time.perf_counter()
    subprocess.run(command, input='\n'.join(map(str, range(number))), text=True, check=True)
    return number / (time.perf_counter() - began)


def cpu_seconds(process: int) -> float:
    user, system = Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[11:13]
    return (int(user) + int(system)) / 100


def memory_of(process: int) -> float:
    lines = Path(f'/proc/{process}/status').read_text().splitlines()
    return int(next(line for line in lines if line.startswith('VmHWM')).split()[1]) / 1024


if __name__ == '__main__':
    main([int(argument) for argument in sys.argv[1:]] or [1_000, 5_000, 10_000])
