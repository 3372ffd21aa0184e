"""The client's command line, and what is wrong with it before anything is created."""
from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

import pytest

import python_tutorial_client as client
from common.guards.command_line import SettingsError, parse_arguments


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    home = tmp_path / 'home'
    home.mkdir()
    monkeypatch.setenv('HOME', str(home))
    monkeypatch.setenv('USERPROFILE', str(home))
    monkeypatch.chdir(tmp_path)
    return home


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / 'a.txt', tmp_path / 'b.txt']
    for path in paths:
        path.write_text(path.name)
    return paths


def parse(monkeypatch: pytest.MonkeyPatch, default_input_files: list[Path], *arguments: str) -> argparse.Namespace:
    monkeypatch.setattr(sys, 'argv', ['python_tutorial_client.py', *arguments])
    return parse_arguments(default_input_files)


def test_everything_is_optional(monkeypatch: pytest.MonkeyPatch, inputs: list[Path], own_home: Path) -> None:
    arguments = parse(monkeypatch, inputs)

    assert (arguments.input_files, arguments.numwords, arguments.output_dir) == (inputs, 3, own_home)
    assert (arguments.ask, arguments.replace_pool) == (True, False)


def test_everything_can_be_given(monkeypatch: pytest.MonkeyPatch, inputs: list[Path], tmp_path: Path) -> None:
    arguments = parse(monkeypatch, inputs, 'b.txt', '--numwords', '5', '--output-dir', 'new/results', '--yes',
                      '--replace-pool')

    assert (arguments.input_files, arguments.numwords) == ([tmp_path / 'b.txt'], 5)
    assert arguments.output_dir == tmp_path / 'new' / 'results'
    assert arguments.output_dir.is_dir()
    assert (arguments.ask, arguments.replace_pool) == (False, True)


@pytest.mark.usefixtures('sdk_loggers')
@pytest.mark.parametrize('options, shown', [((), False), (('--verbose',), True)])
def test_the_calls_to_azure_are_shown_if_asked_for(
        monkeypatch: pytest.MonkeyPatch, inputs: list[Path], capsys: pytest.CaptureFixture[str],
        options: tuple[str, ...], shown: bool) -> None:
    parse(monkeypatch, inputs, *options)
    logging.getLogger('azure.core').debug('Request URL')

    assert ('Request URL' in capsys.readouterr().err) is shown


def test_a_link_keeps_its_own_name(
        monkeypatch: pytest.MonkeyPatch, inputs: list[Path], tmp_path: Path) -> None:
    (tmp_path / 'link.txt').symlink_to(inputs[0])

    assert parse(monkeypatch, inputs, 'link.txt').input_files == [tmp_path / 'link.txt']


@pytest.mark.parametrize('numwords', ['0', '-1', 'three', '2.5', ''])
def test_a_bad_number_of_words_is_refused(monkeypatch: pytest.MonkeyPatch, inputs: list[Path], numwords: str,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        parse(monkeypatch, inputs, f'--numwords={numwords}')

    assert raised.value.code == 2
    assert f'--numwords: {numwords!r} is not a whole number above 0' in capsys.readouterr().err


@pytest.mark.parametrize('name, reason', [('nowhere.txt', 'does not exist'), ('home', 'is not a file')])
def test_an_input_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, inputs: list[Path],
                                               tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(SettingsError) as raised:
        parse(monkeypatch, inputs, 'a.txt', name)

    assert str(raised.value) == f'Input file {tmp_path / name} {reason}.'


def test_an_input_that_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch, inputs: list[Path],
                                                 tmp_path: Path) -> None:
    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, 'Permission denied', str(self))

    # In place of chmod, which does not hold for root.
    monkeypatch.setattr(Path, 'open', refuse)
    with pytest.raises(SettingsError) as raised:
        parse(monkeypatch, inputs)

    assert str(raised.value) == f'Input file {tmp_path}/a.txt cannot be read: Permission denied.'


@pytest.mark.parametrize('name, reason', [
    ('back\\slash.txt', 'Storage would change'), ('dot.', 'Storage would change'),
    ('line\nbreak', 'Storage would change'), ('x' * 249, 'too long a name'), (os.fsdecode(b'\xff.txt'), 'not UTF-8')])
def test_an_input_whose_name_no_blob_can_have_is_refused(monkeypatch: pytest.MonkeyPatch, inputs: list[Path],
                                                         tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / name).write_text('words')

    with pytest.raises(SettingsError, match=f'{reason}.*rename it'):
        parse(monkeypatch, inputs, name)


def test_an_input_with_the_longest_name_whose_output_has_one_is_taken(monkeypatch: pytest.MonkeyPatch,
                                                                      inputs: list[Path], tmp_path: Path) -> None:
    (tmp_path / ('x' * 248)).write_text('words')

    assert parse(monkeypatch, inputs, 'x' * 248).input_files == [tmp_path / ('x' * 248)]


def test_inputs_of_the_same_name_are_refused(monkeypatch: pytest.MonkeyPatch, inputs: list[Path],
                                             tmp_path: Path) -> None:
    (tmp_path / 'home' / 'a.txt').write_text('another')

    with pytest.raises(SettingsError) as raised:
        parse(monkeypatch, inputs, 'a.txt', 'b.txt', 'home/a.txt')

    assert str(raised.value) == (f'Input files {tmp_path}/a.txt and {tmp_path}/home/a.txt have the same name, and '
                                 'would overwrite each other in the container: rename one, or leave it out.')


@pytest.mark.parametrize('again', ['a.txt', './a.txt', '../{directory}/a.txt'])
def test_an_input_that_is_given_twice_is_told_so(monkeypatch: pytest.MonkeyPatch, inputs: list[Path],
                                                 tmp_path: Path, again: str) -> None:
    with pytest.raises(SettingsError) as raised:
        parse(monkeypatch, inputs, 'a.txt', 'b.txt', again.format(directory=tmp_path.name))

    assert str(raised.value).endswith('a.txt is given twice.')


def test_an_output_directory_that_is_a_file_is_refused(monkeypatch: pytest.MonkeyPatch,
                                                       inputs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as raised:
        parse(monkeypatch, inputs, '--output-dir', 'b.txt')

    assert str(raised.value) == f'Output directory {tmp_path}/b.txt cannot be written to: File exists.'


def test_an_output_directory_in_which_no_file_can_be_made_is_refused(
        monkeypatch: pytest.MonkeyPatch, inputs: list[Path]) -> None:
    # Not by permissions, which do not hold for root.
    with pytest.raises(SettingsError) as raised:
        parse(monkeypatch, inputs, '--output-dir', '/proc/self')

    assert str(raised.value).startswith('Output directory /proc/self cannot be written to: ')


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='only Linux has a device that is always full')
def test_a_full_disk_shows_before_anything_is_created(monkeypatch: pytest.MonkeyPatch, inputs: list[Path],
                                                      tmp_path: Path) -> None:
    monkeypatch.setattr('tempfile.TemporaryFile', lambda dir: open('/dev/full', 'wb'))
    with pytest.raises(SettingsError) as raised:
        parse(monkeypatch, inputs)

    assert str(raised.value) == f'Output directory {tmp_path}/home cannot be written to: No space left on device.'


def test_nothing_stays_of_the_look_at_the_output_directory(
        monkeypatch: pytest.MonkeyPatch, inputs: list[Path], tmp_path: Path) -> None:
    parse(monkeypatch, inputs, '--output-dir', 'results')

    assert list((tmp_path / 'results').iterdir()) == []


def test_help_explains_every_setting(monkeypatch: pytest.MonkeyPatch, inputs: list[Path],
                                     capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        parse(monkeypatch, inputs, '--help')

    text = capsys.readouterr().out
    assert raised.value.code == 0
    settings = [name for name, value in vars(client).items()
                if name.startswith('_') and name.isupper() and isinstance(value, (str, int))]
    assert len(settings) == 14
    assert [name for name in settings if name not in text] == []
    assert max(map(len, text.splitlines())) <= 120
