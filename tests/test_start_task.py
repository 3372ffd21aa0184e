"""The start task that the client gives its pool, run for real: as on a local node, and on a bare system."""
from __future__ import annotations

import ast
import hashlib
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from unittest.mock import MagicMock

import azure.batch.models as batchmodels
import pytest
from platformdirs import user_cache_path

import python_tutorial_client

fcntl = pytest.importorskip('fcntl', reason='nodes run Linux, local ones Linux or macOS')

SCRIPT = 'python_tutorial_task.py'


@pytest.fixture
def start_task() -> list[str]:
    """The start task's command line as create_pool sends it, split as a Linux node splits it."""
    image = batchmodels.ImageInformation(
        node_agent_sku_id='batch.node.ubuntu 24.04', os_type='linux', verification_type='verified',
        image_reference=batchmodels.ImageReference(
            publisher='Canonical', offer='ubuntu-24_04-lts', sku='server', version='latest'))
    batch_service_client = MagicMock()
    batch_service_client.account.list_supported_images.return_value = [image]
    python_tutorial_client.create_pool(
        batch_service_client, 'pool', [], 'Canonical', 'ubuntu-24_04-lts', 'server')
    return shlex.split(batch_service_client.pool.add.call_args.args[0].start_task.command_line)


# As on a local node: python3 has the package already.

@dataclass(frozen=True)
class LocalNode:
    """Directories of a node, whose programs note in a file that they were called."""

    root: Path

    @property
    def shared_script(self) -> Path:
        return self.root / 'shared dir' / SCRIPT

    def add_program(self, name: str, action: str) -> None:
        program = self.root / 'bin' / name
        record = shlex.quote(str(self.root / 'calls.txt'))
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {record}\n{action}\n')
        program.chmod(0o755)

    def run(self, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {'PATH': f'{self.root / "bin"}:/usr/bin:/bin', 'HOME': str(self.root),
                       'AZ_BATCH_NODE_SHARED_DIR': str(self.shared_script.parent), **variables}
        return subprocess.run(command, cwd=self.root / 'wd', env=environment, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=60)

    def calls(self) -> list[str]:
        return (self.root / 'calls.txt').read_text().splitlines()


@pytest.fixture
def local_node(tmp_path: Path) -> LocalNode:
    node = LocalNode(tmp_path)
    for name in 'bin', 'wd', 'shared dir':
        (tmp_path / name).mkdir()
    (tmp_path / 'wd' / SCRIPT).write_text('print("the first version")\n')
    node.add_program('python3', f'exec {shlex.quote(sys.executable)} "$@"')
    for name in 'apt-get', 'dpkg', 'pip', 'pip3', 'sudo':
        node.add_program(name, 'exit 99')
    return node


def test_start_task_copies_the_script_and_installs_nothing_where_nothing_is_missing(
        local_node: LocalNode, start_task: list[str]) -> None:
    completed = local_node.run(start_task)

    assert (completed.returncode, completed.stderr) == (0, '')
    assert local_node.shared_script.read_text() == 'print("the first version")\n'
    assert local_node.calls() == ['python3 -c import azure.storage.blob']


def test_start_task_runs_again_after_a_restart(local_node: LocalNode, start_task: list[str]) -> None:
    local_node.run(start_task)
    (local_node.root / 'wd' / SCRIPT).write_text('print("the second version")\n')

    assert local_node.run(start_task).returncode == 0
    assert local_node.shared_script.read_text() == 'print("the second version")\n'


def test_script_is_readable_for_every_user_of_the_node(local_node: LocalNode, start_task: list[str]) -> None:
    (local_node.root / 'wd' / SCRIPT).chmod(0o700)

    assert local_node.run(start_task).returncode == 0
    assert local_node.shared_script.stat().st_mode & 0o777 == 0o644


def test_start_task_fails_at_once_when_the_script_is_not_there(
        local_node: LocalNode, start_task: list[str]) -> None:
    (local_node.root / 'wd' / SCRIPT).unlink()

    completed = local_node.run(start_task)

    assert completed.returncode != 0
    assert SCRIPT in completed.stderr
    assert not (local_node.root / 'calls.txt').exists()


def test_start_task_installs_pip_and_the_package_where_they_are_missing(
        local_node: LocalNode, start_task: list[str]) -> None:
    local_node.add_program('python3', f'''
        case "$*" in
            '-c import azure.storage.blob') [ -e {local_node.root}/package ] ;;
            '-m pip --version') [ -e {local_node.root}/pip ] ;;
            *) echo "$PIP_BREAK_SYSTEM_PACKAGES $(umask)" > {local_node.root}/package ;;
        esac''')
    local_node.add_program('apt-get', f'case "$*" in *\\ python3-pip) : > {local_node.root}/pip ;; esac')
    local_node.add_program('dpkg', 'true')

    completed = local_node.run(start_task)

    assert (completed.returncode, completed.stderr) == (0, '')
    update, *_, pip, package = [call for call in local_node.calls() if re.search('update| install ', call)]
    assert update.startswith('apt-get ') and update.endswith(' update')
    assert pip.startswith('apt-get ') and pip.endswith(' install python3-pip')
    assert package.startswith('python3 -m pip install ') and package.endswith(' azure-storage-blob==12.*')
    assert (local_node.root / 'package').read_text() == '1 0022\n'


def test_start_task_fails_when_the_package_cannot_be_installed(local_node: LocalNode, start_task: list[str]) -> None:
    local_node.add_program('dpkg', 'true')
    local_node.add_program('python3', '[ "$*" = "-m pip --version" ] || { echo "$*: no network" >&2; exit 3; }')

    completed = local_node.run(start_task)

    assert completed.returncode == 3
    assert 'pip install' in completed.stderr and 'no network' in completed.stderr


def test_start_task_gives_up_and_shows_why_when_pip_cannot_be_had(
        local_node: LocalNode, start_task: list[str]) -> None:
    local_node.add_program('python3', 'exit 1')
    local_node.add_program('apt-get', 'echo "E: no route to the archive" >&2; exit 100')

    # bash counts the seconds from there: the five minutes are over.
    completed = local_node.run(start_task, SECONDS='301')

    assert completed.returncode != 0
    assert 'E: no route to the archive' in completed.stderr
    assert not any('install' in call for call in local_node.calls())


# On a bare system: the real package manager, the real pip, the real package.

NODE = 'mnt/batch/tasks'
NOBODY = 65534
DPKG_LOCK = 'var/lib/dpkg/lock-frontend'
LISTS_LOCK = 'var/lib/apt/lists/lock'
ARCHIVES_LOCK = 'var/cache/apt/archives/lock'


@dataclass(frozen=True)
class BareNode:
    """A Debian or Ubuntu in a directory that has apt and python3, and little else."""

    root: Path
    environment: dict[str, str]

    @contextmanager
    def started(self, command: list[str], user: int = 0) -> Iterator[subprocess.Popen[bytes]]:
        argv = ['chroot', f'--userspec={user}:{user}', '--groups=', str(self.root),
                'env', f'--chdir=/{NODE}/startup/wd', *command]
        # Under such a umask, what root installs is root's alone, unless the command line sees to it.
        with self._stderr.open('wb') as stderr, subprocess.Popen(
                argv, env=self.environment, umask=0o077, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    def run(self, command: list[str], user: int = 0) -> None:
        with self.started(command, user) as process:
            assert process.wait(100) == 0, self.stderr()

    def stderr(self) -> str:
        return self._stderr.read_text()

    @property
    def _stderr(self) -> Path:
        return self.root / NODE / 'startup' / 'stderr.txt'

    @contextmanager
    def held(self, lock: str) -> Iterator[None]:
        with (self.root / lock).open('a') as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            yield

    def changed_files(self) -> dict[str, int]:
        """All that an installation may touch, with the time of its last change."""
        return {path: os.lstat(path).st_ctime_ns for folder in ('etc', 'opt', 'root', 'srv', 'usr', 'var')
                for place, folders, files in os.walk(self.root / folder)
                for path in (os.path.join(place, name) for name in folders + files)}


@pytest.fixture(scope='session')
def bare_system() -> Path:
    """The system that nodes are copies of: made on first use, and kept in the user's cache."""
    if os.geteuid() != 0 or shutil.which('debootstrap') is None:
        skip_unless_ci('a bare system to try the start task on takes root and debootstrap')
    suite, archive, components = this_system()
    made_of = ['--variant=minbase', '--include=python3', f'--components={components}', suite, archive]
    # The home of the tests has a link to it, which may lead nowhere yet.
    cache = user_cache_path('azure-batch-tutorial').resolve()
    cache.mkdir(parents=True, exist_ok=True)
    system = cache / f'bare-{suite}-{platform.machine()}-{hashlib.sha256(" ".join(made_of).encode()).hexdigest()[:12]}'
    with (cache / 'bare.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not system.is_dir():
            make_bare_system(system, made_of)
    return system


def make_bare_system(system: Path, made_of: list[str]) -> None:
    unfinished = system.with_name(f'{system.name}.unfinished')
    # What was killed may have left that, and file systems that are mounted in it.
    subprocess.run(['rm', '-rf', '--one-file-system', unfinished], check=True)
    *options, suite, archive = made_of
    debootstrap = subprocess.run(['debootstrap', *options, suite, unfinished, archive],
                                 stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if debootstrap.returncode != 0:
        skip_unless_ci(f'debootstrap cannot make a bare system: {debootstrap.stdout[-500:]}')
    subprocess.run(['chroot', unfinished, 'apt-get', 'clean'], check=True)
    unfinished.rename(system)


def skip_unless_ci(reason: str) -> NoReturn:
    if os.environ.get('CI'):
        pytest.fail(reason)
    pytest.skip(reason)


def this_system() -> tuple[str, str, str]:
    """The suite that runs here, and the archive and the components that its packages come from."""
    suite = subprocess.run(['sh', '-c', '. /etc/os-release && echo "$VERSION_CODENAME"'],
                           check=True, capture_output=True, text=True).stdout.strip()
    targets = subprocess.run(['apt-get', 'indextargets', '--format', '$(REPO_URI) $(COMPONENT)',
                              'Identifier: Packages', f'Release: {suite}'],
                             check=True, capture_output=True, text=True).stdout.split()
    return suite, targets[0], ','.join(dict.fromkeys(targets[1::2]))


@pytest.fixture
def bare_node(bare_system: Path, tmp_path: Path) -> Iterator[BareNode]:
    with copy_of(bare_system, tmp_path / 'node') as root:
        for folder in 'shared', 'startup/wd':
            (root / NODE / folder).mkdir(parents=True)
        (root / NODE / 'startup' / 'wd' / SCRIPT).write_text('import azure.storage.blob\n')
        environment = {'PATH': '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
                       'AZ_BATCH_NODE_SHARED_DIR': f'/{NODE}/shared', **way_to_the_registries(root)}
        yield BareNode(root, environment)


@contextmanager
def copy_of(system: Path, place: Path) -> Iterator[Path]:
    """Yields a copy of the system; where Linux can do that, only what changes in it takes time and space."""
    root, changes, work = (place / name for name in ('root', 'changes', 'work'))
    for directory in root, changes, work:
        directory.mkdir(parents=True)
    options = f'volatile,lowerdir={system},upperdir={changes},workdir={work}'
    mounted = subprocess.run(['mount', '-t', 'overlay', 'overlay', '-o', options, root], capture_output=True)
    if mounted.returncode != 0:
        subprocess.run(['cp', '-a', '--reflink=auto', f'{system}/.', root], check=True)
    try:
        yield root
    finally:
        if mounted.returncode == 0:
            subprocess.run(['umount', root], check=True)
        shutil.rmtree(place)


def way_to_the_registries(root: Path) -> dict[str, str]:
    """Variables by which pip and apt reach from the chroot what they reach from here."""
    listed = subprocess.run([sys.executable, '-m', 'pip', 'config', 'list'],
                            check=True, capture_output=True, text=True)
    pip: dict[str, str] = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition('=')
        pip.setdefault(name.rpartition('.')[2], ast.literal_eval(value))
    variables = {name: value for name, value in os.environ.items()
                 if name.lower() in ('http_proxy', 'https_proxy', 'no_proxy')}
    variables |= {f'PIP_{name.upper().replace("-", "_")}': pip[name]
                  for name in ('index-url', 'trusted-host', 'proxy', 'timeout') if name in pip}
    certificates = pip.get('cert') or os.environ.get('REQUESTS_CA_BUNDLE')
    if certificates:
        shutil.copy(certificates, root / 'mnt' / 'certificates.pem')
        variables['PIP_CERT'] = '/mnt/certificates.pem'
    return variables


def wait_for(text: str, bare_node: BareNode, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while text not in bare_node.stderr():
        assert process.poll() is None and time.monotonic() < deadline, bare_node.stderr()
        time.sleep(0.05)


@pytest.mark.real
@pytest.mark.long
def test_bare_node_gets_ready_although_its_package_manager_is_busy(
        bare_node: BareNode, start_task: list[str]) -> None:
    with ExitStack() as dpkg_and_lists, ExitStack() as archives:
        dpkg_and_lists.enter_context(bare_node.held(DPKG_LOCK))
        dpkg_and_lists.enter_context(bare_node.held(LISTS_LOCK))
        archives.enter_context(bare_node.held(ARCHIVES_LOCK))
        with bare_node.started(start_task) as process:
            wait_for(LISTS_LOCK, bare_node, process)
            dpkg_and_lists.close()
            wait_for(ARCHIVES_LOCK, bare_node, process)
            archives.close()
            assert process.wait(100) == 0, bare_node.stderr()

    bare_node.run(['python3', f'/{NODE}/shared/{SCRIPT}'], user=NOBODY)

    ready = bare_node.changed_files()
    bare_node.run(start_task)
    assert bare_node.changed_files() == ready


@pytest.mark.real
@pytest.mark.long
def test_node_that_restarted_while_it_installed_pip_is_repaired(
        bare_node: BareNode, start_task: list[str]) -> None:
    bare_node.run(['sh', '-ec', 'apt-get update; '
                                'apt-get -y --no-install-recommends --download-only install python3-pip; '
                                'dpkg --unpack /var/cache/apt/archives/python3-pip_*.deb'])

    bare_node.run(start_task)

    bare_node.run(['sh', '-c', 'test -z "$(dpkg --audit)"'])
    bare_node.run(['python3', f'/{NODE}/shared/{SCRIPT}'], user=NOBODY)
