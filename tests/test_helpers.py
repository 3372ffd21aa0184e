"""What any Batch client needs: images, shells, packages, signing keys, questions, errors."""
from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path
from unittest.mock import MagicMock

import azure.batch.models as batchmodels
import pytest
import requests
from azure.batch.custom.custom_errors import CreateTasksErrorException
from hypothesis import given, settings
from hypothesis import strategies as st
from msrest import Deserializer
from pytest_mock import MockerFixture

from common.helpers import (ImageNotFoundError, InterruptedQuestion, can_ask, commands_that_install,
                            print_batch_exception, query_yes_no, sas_signing_key,
                            select_latest_verified_vm_image_with_node_agent_sku, wait_for_enter,
                            wrap_commands_in_shell)

TOMORROW = datetime.now(timezone.utc) + timedelta(days=1)
YESTERDAY = datetime.now(timezone.utc) - timedelta(days=1)


def image(sku: str, *, publisher: str = 'canonical', offer: str = 'ubuntu-24_04-lts', version: str = 'latest',
          agent: str = 'batch.node.ubuntu 24.04', verified: bool = True,
          end: datetime | None = None) -> batchmodels.ImageInformation:
    return batchmodels.ImageInformation(
        node_agent_sku_id=agent, os_type='linux', verification_type='verified' if verified else 'unverified',
        batch_support_end_of_life=end,
        image_reference=batchmodels.ImageReference(
            publisher=publisher, offer=offer, sku=sku, version=version))


# Two of the lists that Batch gave in 2026.
UBUNTU = [image('server-arm64', agent='batch.node.ubuntu 24.04-arm64'), image('server-gen1'), image('server'),
          image('cvm', verified=False)]
ALMA = [image(sku, publisher='almalinux', offer='almalinux-x86_64', agent=f'batch.node.el {sku[0]}')
        for sku in ('9-gen2', '9-gen1', '8-gen1', '8-gen2', '10-gen1')]


def select(images: list[batchmodels.ImageInformation], sku_starts_with: str, publisher: str = 'canonical',
           offer: str = 'ubuntu-24_04-lts') -> tuple[str, str, str]:
    client = MagicMock()
    client.account.list_supported_images.return_value = iter(images)
    agent, reference = select_latest_verified_vm_image_with_node_agent_sku(
        client, publisher, offer, sku_starts_with)
    assert isinstance(reference, batchmodels.ImageReference)
    return agent, reference.sku, reference.version


@pytest.mark.parametrize('images', [UBUNTU, UBUNTU[::-1]])
def test_exact_sku_is_preferred_to_longer_ones(images: list[batchmodels.ImageInformation]) -> None:
    assert select(images, 'server') == ('batch.node.ubuntu 24.04', 'server', 'latest')


def test_names_are_compared_without_regard_to_case() -> None:
    assert select(UBUNTU, 'SERVER', publisher='Canonical', offer='Ubuntu-24_04-LTS')[1] == 'server'


def test_other_publishers_and_offers_do_not_count() -> None:
    images = [image('server', publisher='evil'), image('server', offer='ubuntu'), image('server-gen1')]

    assert select(images, 'server')[1] == 'server-gen1'


def test_unverified_images_are_not_taken() -> None:
    assert select([image('server', verified=False), image('server-gen1')], 'server')[1] == 'server-gen1'


@pytest.mark.parametrize('yesterday, tomorrow', [
    (YESTERDAY, TOMORROW), (datetime.now() - timedelta(days=1), datetime.now() + timedelta(days=1))])
def test_images_whose_support_has_ended_are_not_taken(yesterday: datetime, tomorrow: datetime) -> None:
    assert select([image('server', end=yesterday), image('server-gen1', end=tomorrow)],
                  'server')[1] == 'server-gen1'


def test_arm_images_are_taken_only_when_named() -> None:
    assert select([UBUNTU[0], image('server-gen1')], 'server-')[1] == 'server-gen1'
    assert select(UBUNTU, 'server-arm')[1] == 'server-arm64'
    by_agent_only = image('server', agent='batch.node.ubuntu 24.04-arm64')
    assert select([by_agent_only, image('server-gen1')], 'server')[1] == 'server-gen1'
    with pytest.raises(ImageNotFoundError):
        select(UBUNTU[:1], 'server')


def test_an_offer_can_name_arm() -> None:
    images = [image('9-arm-gen2', publisher='almalinux', offer='almalinux-arm',
                    agent='batch.node.el 9-arm64')]

    assert select(images, '9', 'almalinux', 'almalinux-arm')[1] == '9-arm-gen2'


@pytest.mark.parametrize('prefix, sku', [('8', '8-gen2'), ('9', '9-gen2'), ('', '10-gen1')])
def test_the_latest_of_several_skus_is_taken(prefix: str, sku: str) -> None:
    assert select(ALMA, prefix, 'almalinux', 'almalinux-x86_64')[1] == sku


@pytest.mark.parametrize('versions, latest', [
    (['24.04.202512010', '24.04.202601010', '24.04.20260101'], '24.04.202601010'),
    (['9.9.9', '10.0.0', '9.10.0'], '10.0.0'),
    (['24.04.202601010', 'latest'], 'latest')])
def test_the_latest_version_of_a_sku_is_taken(versions: list[str], latest: str) -> None:
    assert select([image('server', version=version) for version in versions], 'server')[2] == latest


def test_no_match_lists_what_the_offer_has() -> None:
    images = [*UBUNTU, image('minimal', end=YESTERDAY), image('other', offer='another')]

    with pytest.raises(ImageNotFoundError) as raised:
        select(images, '22_04')

    assert str(raised.value) == (
        "No verified and supported image of canonical ubuntu-24_04-lts has a SKU that starts with '22_04'. "
        'Batch offers there: cvm (not verified), minimal (support has ended), server, server-arm64, '
        'server-gen1.')


def test_no_match_for_an_unknown_offer() -> None:
    with pytest.raises(ImageNotFoundError, match='no image at all'):
        select(UBUNTU, 'server', offer='ubuntu-30_04-lts')


def run_wrapped(*commands: str) -> subprocess.CompletedProcess:
    command_line = wrap_commands_in_shell('linux', commands)
    return subprocess.run(shlex.split(command_line), capture_output=True, timeout=60)


def test_linux_commands_run_in_order() -> None:
    assert wrap_commands_in_shell('linux', ['a']).startswith("/bin/bash -c '")
    assert run_wrapped('echo one', 'x=2', 'echo "$x"').stdout == b'one\n2\n'


@pytest.mark.parametrize('failing', ['false', 'exit 1', 'false | cat', '(exit 1) # comment', 'cd /nowhere'])
def test_linux_stops_at_the_first_failing_command(failing: str) -> None:
    ran = run_wrapped('echo before', failing, 'echo after')

    assert ran.returncode == 1
    assert ran.stdout == b'before\n'


@pytest.mark.parametrize('command', ['true # comment', 'sleep 0 &', 'echo "a # b" >/dev/null', "true 'it'"])
def test_linux_runs_what_follows_any_whole_command(command: str) -> None:
    assert run_wrapped(command, 'echo after').stdout == b'after\n'


@given(st.lists(st.text(st.characters(exclude_characters='\0', exclude_categories=('Cs',))), max_size=4))
@settings(max_examples=100, deadline=None)
def test_linux_quoting_survives_anything(texts: list[str]) -> None:
    ran = run_wrapped(*(f'printf %s {shlex.quote(text)}' for text in texts))

    assert (ran.returncode, ran.stdout.decode()) == (0, ''.join(texts))


def test_linux_takes_double_quotes_variables_and_substitutions() -> None:
    ran = run_wrapped('''HOME="it's home"''', '''echo "$HOME" '$HOME' $(echo `echo deep`) \\\\''')

    assert ran.stdout == b"it's home $HOME deep \\\n"


def test_windows_chains_the_commands() -> None:
    # Only Windows can run it: https://learn.microsoft.com/windows-server/administration/windows-commands/cmd
    assert wrap_commands_in_shell('Windows', ['dir "C:\\a b"', 'echo %PATH%']) == (
        'cmd.exe /c "dir "C:\\a b" && echo %PATH%"')


def test_unknown_shell_is_refused() -> None:
    with pytest.raises(ValueError, match="'beos'"):
        wrap_commands_in_shell('beos', ['true'])


@pytest.mark.parametrize('has_module', [True, False])
def test_a_package_is_installed_only_where_it_is_missing(tmp_path: Path, has_module: bool) -> None:
    calls, installed = tmp_path / 'calls.txt', tmp_path / 'installed'
    if has_module:
        installed.touch()
    for name, action in [('python3', f'case "$*" in "-c "*) test -e {installed};; *install*) touch {installed};; esac'),
                         ('dpkg', 'true'), ('apt-get', 'exit 99')]:
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {calls}\n{action}\n')
        (tmp_path / name).chmod(0o755)

    command_line = wrap_commands_in_shell('linux', commands_that_install('some-package>=1,<2', module='some.module'))
    ran = subprocess.run(shlex.split(command_line), cwd=tmp_path, timeout=60, umask=0o077,
                         env={'PATH': f'{tmp_path}:/usr/bin:/bin'})

    assert ran.returncode == 0
    # What root installs, the tasks' user must be able to read.
    assert has_module or installed.stat().st_mode & 0o777 == 0o644
    install = ['dpkg --audit', 'python3 -m pip --version',
               'python3 -m pip install --quiet --no-cache-dir --disable-pip-version-check some-package>=1,<2',
               'python3 -c import some.module']
    assert calls.read_text().splitlines() == ['python3 -c import some.module', *([] if has_module else install)]


def test_a_signature_is_made_with_the_key_of_the_account() -> None:
    client = MagicMock()
    client.credential.account_key = 'a key'

    assert sas_signing_key(client, TOMORROW) == {'account_key': 'a key'}

    client.get_user_delegation_key.assert_not_called()


def signed_in_client() -> MagicMock:
    """A storage client without a key, which is lent another one each time it asks."""
    client = MagicMock(credential=object())
    client.get_user_delegation_key.side_effect = lambda *_: object()
    return client


@pytest.mark.parametrize('ahead', [timedelta(), timedelta(hours=2), timedelta(days=5)], ids=str)
def test_a_lent_key_outlasts_the_signature_and_is_asked_for_in_the_span_that_storage_allows(ahead: timedelta) -> None:
    client, now = signed_in_client(), datetime.now(timezone.utc)
    expiry = now + ahead

    assert list(sas_signing_key(client, expiry)) == ['user_delegation_key']

    [(start, end)] = [call.args for call in client.get_user_delegation_key.call_args_list]
    assert timedelta(minutes=14) < now - start < timedelta(minutes=16)
    # https://learn.microsoft.com/rest/api/storageservices/get-user-delegation-key
    assert expiry < end < now + timedelta(days=7)


def test_one_lent_key_signs_for_a_whole_day_and_for_one_client_alone() -> None:
    client, expiry = signed_in_client(), datetime(2026, 11, 27, 10, tzinfo=timezone.utc)

    first = sas_signing_key(client, expiry)

    assert sas_signing_key(client, expiry + timedelta(hours=2)) == first
    assert sas_signing_key(signed_in_client(), expiry) != first
    assert sas_signing_key(client, expiry + timedelta(days=1)) != first


def test_a_key_that_storage_does_not_lend_is_asked_for_again() -> None:
    client = MagicMock(credential=object())
    client.get_user_delegation_key.side_effect = [PermissionError('No.'), 'a key']

    with pytest.raises(PermissionError):
        sas_signing_key(client, TOMORROW)

    assert sas_signing_key(client, TOMORROW) == {'user_delegation_key': 'a key'}


def at_a_terminal(mocker: MockerFixture, *answers: str | type[BaseException]) -> MagicMock:
    mocker.patch('sys.stdin', MagicMock(closed=False, isatty=lambda: True))
    return mocker.patch('builtins.input', side_effect=answers)


@pytest.mark.parametrize('typed, answer', [('y', 'yes'), ('YES', 'yes'), (' n ', 'no'), ('No', 'no'), ('', 'yes')])
def test_question_at_a_terminal(mocker: MockerFixture, capsys: pytest.CaptureFixture[str],
                                typed: str, answer: str) -> None:
    asked = at_a_terminal(mocker, typed)

    assert query_yes_no('Delete job?') == answer

    asked.assert_called_once_with('Delete job? [Y/n] ')
    assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize('default', ['yes', 'no'])
def test_the_end_of_the_input_is_the_default_and_shows_it(
        mocker: MockerFixture, capsys: pytest.CaptureFixture[str], default: str) -> None:
    at_a_terminal(mocker, EOFError)

    assert query_yes_no('Delete job?', default) == default

    assert capsys.readouterr() == (f'{default}\n', '')


def test_ctrl_c_at_a_question_is_no_answer_and_is_not_asked_again(
        mocker: MockerFixture, capsys: pytest.CaptureFixture[str]) -> None:
    asked = at_a_terminal(mocker, KeyboardInterrupt, 'y')

    with pytest.raises(KeyboardInterrupt) as raised:
        query_yes_no('Delete job?')

    assert raised.type is InterruptedQuestion
    assert asked.call_count == 1
    assert capsys.readouterr() == ('\n', '')


def test_question_is_asked_again_until_it_is_answered(mocker: MockerFixture,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    asked = at_a_terminal(mocker, 'maybe', 'nyes', 'n')

    assert query_yes_no('Delete job?') == 'no'

    assert asked.call_count == 3
    assert capsys.readouterr().out.count("Please respond with 'yes' or 'no'") == 2


def test_question_with_the_other_default(mocker: MockerFixture) -> None:
    asked = at_a_terminal(mocker, '')

    assert query_yes_no('Overwrite?', 'no') == 'no'

    asked.assert_called_once_with('Overwrite? [y/N] ')


def closed_stream() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize('stdin', [None, closed_stream(), io.StringIO('n\n')], ids=['none', 'closed', 'no terminal'])
def test_question_without_a_terminal_shows_the_default_it_took(
        mocker: MockerFixture, capsys: pytest.CaptureFixture[str], stdin: io.StringIO | None) -> None:
    asked = at_a_terminal(mocker)
    mocker.patch('sys.stdin', stdin)

    assert not can_ask()
    assert (query_yes_no('Delete job?'), query_yes_no('Overwrite?', 'no')) == ('yes', 'no')
    wait_for_enter('Press ENTER to exit...')

    assert capsys.readouterr().out == 'Delete job? [Y/n] yes\nOverwrite? [y/N] no\nPress ENTER to exit...\n'
    asked.assert_not_called()


def test_question_that_shall_not_be_asked_takes_the_default(mocker: MockerFixture,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    asked = at_a_terminal(mocker)

    assert query_yes_no('Delete job?', ask=False) == 'yes'
    wait_for_enter('Press ENTER to exit...', ask=False)

    assert capsys.readouterr().out == 'Delete job? [Y/n] yes\nPress ENTER to exit...\n'
    asked.assert_not_called()


@pytest.mark.parametrize('typed, shown', [('', ''), (EOFError, '\n'), (KeyboardInterrupt, '\n')],
                         ids=['ENTER', 'Ctrl-D', 'Ctrl-C'])
def test_enter_is_waited_for_at_a_terminal(mocker: MockerFixture, capsys: pytest.CaptureFixture[str],
                                           typed: str | type[BaseException], shown: str) -> None:
    asked = at_a_terminal(mocker, typed)

    wait_for_enter('Press ENTER to exit...')

    asked.assert_called_once_with('Press ENTER to exit...')
    assert capsys.readouterr() == (shown, '')


def batch_error(body: str, status: int = 409, reason: str = 'Conflict') -> batchmodels.BatchErrorException:
    """The exception that the SDK makes of this answer."""
    response = requests.Response()
    response.status_code, response.reason, response._content = status, reason, body.encode()
    response.headers['Content-Type'] = 'application/json' if body.startswith('{') else 'text/html'
    models = {name: model for name, model in vars(batchmodels).items() if isinstance(model, type)}
    return batchmodels.BatchErrorException(Deserializer(models), response)


def printed(error: batchmodels.BatchErrorException | CreateTasksErrorException,
            capsys: pytest.CaptureFixture[str]) -> str:
    print_batch_exception(error)
    output = capsys.readouterr().out
    framed = re.fullmatch(r'(-+)\nException encountered:\n(.*)\n\1\n', output, re.DOTALL)
    assert framed, output
    return framed[2]


def test_batch_exception_shows_message_and_every_detail(capsys: pytest.CaptureFixture[str]) -> None:
    error = batch_error(json.dumps({
        'code': 'InvalidPropertyValue',
        'message': {'lang': 'en-US', 'value': 'The value is invalid.\nRequestId:1\nTime:2026'},
        'values': [{'key': 'PropertyName', 'value': 'vmSize'}, {'key': 'Reason', 'value': 'no such size'}]}))

    assert printed(error, capsys) == ('The value is invalid.\nRequestId:1\nTime:2026\n\n'
                                      'PropertyName:\tvmSize\nReason:\tno such size\nCode:\tInvalidPropertyValue')


def test_batch_exception_without_a_message_shows_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(batch_error('{"code": "ServerBusy"}', 503, 'Busy'), capsys) == '\nCode:\tServerBusy'


@pytest.mark.parametrize('body', ['', '{}', '<html>Bad Gateway</html>', '{"message": null}', '{"code": null}',
                                  '{"error": "a bare string"}', '[]', '{"values": []}', 'null', '"x"'])
def test_batch_exception_with_any_body_can_be_printed(body: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 'Bad Gateway' in printed(batch_error(body, 502, 'Bad Gateway'), capsys)


def test_batch_exception_shows_no_signature(capsys: pytest.CaptureFixture[str]) -> None:
    url = 'https://mystorage.blob.core.windows.net/input/a.txt?sp=r&sig=c2VjcmV0%3D&se=2026'
    error = batch_error(json.dumps({
        'code': 'InvalidPropertyValue', 'message': {'lang': 'en-US', 'value': f'Bad: {url}'},
        'values': [{'key': 'Url', 'value': url}, {'key': 'Quoted', 'value': url.replace('=', '%3D', 2)}]}))

    text = printed(error, capsys)

    assert text.count('/input/a.txt?sp') == 3 and text.count('se=2026') == 3
    assert 'c2VjcmV0' not in text


def test_batch_exception_of_a_collection_shows_every_error(capsys: pytest.CaptureFixture[str]) -> None:
    refused = batchmodels.TaskAddResult(
        task_id='topNtask7', status='clienterror',
        error=batchmodels.BatchError(code='InvalidPropertyValue', message=batchmodels.ErrorMessage(value='No.')))
    whole = batch_error(json.dumps({'code': 'JobCompleted', 'message': {'value': 'The job is completed.'}}))

    text = printed(CreateTasksErrorException([], [refused], [whole, ConnectionError('cut off')]), capsys)

    assert text == ('The job is completed.\n\nCode:\tJobCompleted\ncut off\n'
                    'Task topNtask7:\nNo.\n\nCode:\tInvalidPropertyValue')
