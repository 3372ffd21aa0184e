"""Whether the rate of tasks stays as they become more: ``python -m tests.benchmarks.growth [tasks]``.

Nodes with four slots each, tasks that do nothing, and other requests meanwhile; run by hand, prints a table.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from ..batch_service.workbench import ServiceProcess
from .service import Client, percentile, trivial_requests, until
from .tasks import memory_of

_PARTS = 10


def main(number: int) -> None:
    print(f'{"nodes":>6}  {"completed":>9}  {"tasks/s":>8}  {"memory":>7}  another request, 99th percentile, longest')
    for nodes in (2, 100):
        with tempfile.TemporaryDirectory() as directory:
            service = ServiceProcess(Path(directory))
            try:
                measure(service, nodes, number)
            finally:
                service.stop()


def measure(service: ServiceProcess, nodes: int, number: int) -> None:
    """Prints a line for each tenth of so many tasks."""
    client = Client(service)
    client.add_pool('pool', nodes)
    until(lambda: client.idle_nodes('pool') == nodes)
    client.add_job('job', 'pool', 0, 'true')
    client.send('POST', '/jobs/job/disable', {'disableTasks': 'wait'})
    client.add_tasks('job', number, 'true')
    client.send('POST', '/jobs/job/enable')
    done, began = 0, time.perf_counter()
    with trivial_requests(service) as took:
        for part in range(1, _PARTS + 1):
            until(lambda: client.counts('job')['completed'] >= number * part // _PARTS)
            now, before = time.perf_counter(), done
            done = client.counts('job')['completed']
            print(f'{nodes:>6,}  {done:>9,}  {(done - before) / (now - began):>8,.0f}  '
                  f'{memory_of(service.process.pid):>4.0f} MB  {percentile(took, 0.99):.0f} ms, {max(took):.0f} ms',
                  flush=True)
            took.clear()
            began = now


if __name__ == '__main__':
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
