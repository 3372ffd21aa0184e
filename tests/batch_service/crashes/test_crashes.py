"""Kills the service, its reaper and both at random moments of a mixed load, and looks whether it keeps its promises."""

from __future__ import annotations

import os
import random
import secrets
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ...leftovers import eventually, needs_proc
from ..workbench import ServiceProcess, wait_until
from .checks import Checks
from .load import Load
from .sink import serving


def processes_of(workspace: Path) -> dict[int, int]:
    """When the processes of a workspace's nodes began, in ticks since the machine did, by their ids."""
    mark, found = f'AZ_BATCH_NODE_ROOT_DIR={workspace}'.encode(), {}
    for process in Path('/proc').glob('[0-9]*'):
        try:
            if mark in (process / 'environ').read_bytes():
                found[int(process.name)] = began(int(process.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # ended meanwhile, or somebody else's
    return found


def began(process: int) -> int:
    return int(Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[19])


def reaper_of(process: int) -> int:
    children = Path(f'/proc/{process}/task/{process}/children').read_text().split()
    return next(int(child) for child in children if b'reaper.py' in Path(f'/proc/{child}/cmdline').read_bytes())


def crash(service: ServiceProcess, load: Load, chance: random.Random) -> None:
    """Ends the service in one of five ways, and starts it again."""
    how = chance.choice(('service', 'reaper', 'both', 'all', 'term'))
    reaper, process = reaper_of(service.process.pid), service.process
    moment = time.time()
    if how in ('reaper', 'both', 'all'):
        os.kill(reaper, signal.SIGKILL)
    if how == 'all':
        for task in processes_of(service.workspace):
            try:
                os.kill(task, chance.choice((signal.SIGKILL, signal.SIGSTOP)))
            except ProcessLookupError:
                continue
    if how == 'reaper':
        time.sleep(0.2)
    if how == 'term':
        process.terminate()
        told = time.monotonic()
        process.wait(timeout=20)
        assert time.monotonic() - told < 6, 'SIGTERM took too long'
        wait_until(lambda: not processes_of(service.workspace), 5)
    service.kill()
    service.start()
    load.kills.append((moment, time.time()))
    old = {id for id, moment in processes_of(service.workspace).items() if moment < began(service.process.pid)}
    assert not old, f'processes of an earlier run are there: {old}'


@needs_proc
@pytest.mark.real
@pytest.mark.timeout(1_200)
def test_service_that_is_killed_at_random_moments_keeps_its_promises(tmp_path: Path, web: tuple[str, Path]) -> None:
    """The environment variable BATCH_CRASHES says how many kills there are (5), BATCH_CRASHES_SEED repeats a run."""
    kills = int(os.environ.get('BATCH_CRASHES', '5'))
    seed = os.environ.get('BATCH_CRASHES_SEED') or secrets.token_hex(4)
    print(f'BATCH_CRASHES_SEED={seed}')
    (web[1] / 'source').write_text('content')
    with open(tmp_path / 'stderr', 'w') as stderr, serving() as sink:
        service = ServiceProcess(tmp_path, stderr=stderr)
        service.options = ('--port', service.url.rpartition(':')[2])
        load, chance = Load(service, tmp_path, f'{web[0]}/source', sink.url), random.Random(seed)
        checks = Checks(load, sink)
        try:
            assert [load.add_pool(pool, 2) for pool in ('calm', 'wild', 'harsh')] == [201, 201, 201]
            with ThreadPoolExecutor() as threads:
                for number in range(kills):
                    works = [threads.submit(load.work_on_jobs, f'{seed}-{number}-{worker}', worker)
                             for worker in range(3)] + [threads.submit(load.work_on_pools, f'{seed}-{number}')]
                    time.sleep(chance.uniform(0.05, 0.6))
                    crash(service, load, chance)
                    for work in works:
                        work.result(timeout=30)
                    checks.check_answered()
                    assert not load.failures
            checks.run_to_the_end()
            checks.check_answered(all=True)
            checks.check_the_end()
            checks.check_once()
            checks.check_past()
            checks.check_uploads()
            nodes = tmp_path / 'batch' / 'nodes'
            assert eventually(lambda: not checks.left_in(nodes)), checks.left_in(nodes)
            assert not load.failures
        finally:
            service.kill()
        print(f'{len(load.past)} job ids used again, {len(sink.kept)} outputs, {sink.cut_off} uploads cut off')
    assert 'Traceback' not in (tmp_path / 'stderr').read_text()
    wait_until(lambda: not processes_of(tmp_path))
