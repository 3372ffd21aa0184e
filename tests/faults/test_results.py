"""Results that cannot be written, or not be fetched: they stay where they are, and the reader hears where."""
from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.faults.client_process import LITTLE_PATIENCE, SLOW_TASKS, Client, hold_at
from tests.faults.cloud import CONTAINERS, Cloud, Storage

STAY = ('The results that were not fetched stay in container [output]; to fetch them, start "python -m '
        'common.local_azure"')
# A disk on which there is room for what the client says, and for no result of many words.
SMALL_DISK = '''
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
'''


def test_results_for_which_there_is_no_room(cloud: Cloud, start_client: Callable[..., Client], tmp_path: Path) -> None:
    many, few = tmp_path / 'many.txt', tmp_path / 'few.txt'
    many.write_text(' '.join(f'word{number}' for number in range(10_000)))
    few.write_text('one two')
    results = tmp_path / 'results'
    client = start_client(cloud, '--numwords', '10000', '--output-dir', str(results), str(many), str(few),
                          patch=SMALL_DISK)

    assert client.ends() == 1

    assert '1 blob of container [output] could not be downloaded:\n  [many_OUTPUT.txt]: ' in client.errors
    assert STAY in client.errors
    assert [path.name for path in results.iterdir()] == ['few_OUTPUT.txt']
    assert cloud.left() == {'container output', 'blob output/many_OUTPUT.txt', 'blob output/few_OUTPUT.txt'}


def test_an_output_directory_that_goes_meanwhile(cloud: Cloud, start_client: Callable[..., Client],
                                                 home: Path) -> None:
    client = start_client(cloud, '--output-dir', str(home / 'results'), patch=hold_at('Downloading'))
    client.says('Downloading')
    shutil.rmtree(home / 'results')
    client.go_on('Downloading')

    assert client.ends() == 1

    assert str(home / 'results') in client.errors and STAY in client.errors
    assert cloud.left() == {'container output', 'blob output/taskdata1_OUTPUT.txt'}


def test_storage_that_ends_before_the_download(own_storage: Storage, open_cloud: Callable[..., Cloud],
                                               start_client: Callable[..., Client]) -> None:
    cloud = open_cloud(own_storage)
    client = start_client(cloud, patch=hold_at('Downloading') + LITTLE_PATIENCE)
    client.says('Downloading')
    own_storage.stop()
    client.go_on('Downloading')

    assert client.ends() == 1
    own_storage.start()

    assert ('Container [output] may be left, perhaps with results that were not fetched; to fetch them, start "python '
            '-m common.local_azure"') in client.errors
    assert cloud.left() >= {*CONTAINERS, 'blob output/taskdata1_OUTPUT.txt'}
    assert not any(item.startswith(('pool', 'job')) for item in cloud.left())


def test_storage_that_is_away_for_a_moment_loses_no_result(own_storage: Storage, open_cloud: Callable[..., Cloud],
                                                           start_client: Callable[..., Client]) -> None:
    cloud = open_cloud(own_storage)
    client = start_client(cloud, patch=hold_at('Downloading', 'Cleaning up') + LITTLE_PATIENCE)
    client.says('Downloading')
    own_storage.stop()
    client.go_on('Downloading')
    client.says('Cleaning up')
    own_storage.start()
    client.go_on('Cleaning up')

    assert client.ends() == 1

    assert STAY in client.errors
    assert cloud.left() == {'container output', 'blob output/taskdata1_OUTPUT.txt'}


def test_results_of_a_run_that_the_reader_stops_go(cloud: Cloud, start_client: Callable[..., Client]) -> None:
    client = start_client(cloud, terminal=True, patch=hold_at('Downloading'))
    client.says('Downloading')
    client.types('\x03\n\n')

    assert client.ends() == 130

    assert 'not fetched' not in client.errors
    assert cloud.left() == set()


def test_results_that_stayed_are_gone_with_the_next_run(cloud: Cloud, start_client: Callable[..., Client],
                                                        home: Path) -> None:
    client = start_client(cloud, '--output-dir', str(home / 'results'), patch=SLOW_TASKS.format('sleep 0.5'))
    client.says('Monitoring')
    shutil.rmtree(home / 'results')
    assert client.ends() == 1
    assert 'blob output/taskdata1_OUTPUT.txt' in cloud.left()

    client = start_client(cloud)
    assert client.ends() == 0, client.errors

    # The container is not of this run, what it put there is gone.
    assert cloud.left() == {'container output'}
