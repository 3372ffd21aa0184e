"""Names that are taken: what is waited for, what is replaced, what is used again, and what stays in the way."""
from __future__ import annotations

from pathlib import Path
from unittest.mock import MagicMock

import azure.batch.models as batchmodels
import pytest
from pytest_mock import MockerFixture

from common.guards.names import NameTakenError, make_names_free, recipe, renew_pool
from tests.guards.cloud import Cloud, batch_error

RECIPE = [batchmodels.MetadataItem(name=name, value=name) for name in ('image', 'VM size', 'task script')]
OF_RECIPE = {item.name: item.value for item in RECIPE}


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
def slept(mocker: MockerFixture) -> list[float]:
    """The pauses that were taken, on a clock that only they move."""
    pauses: list[float] = []
    mocker.patch('time.sleep', pauses.append)
    mocker.patch('time.monotonic', lambda: sum(pauses))
    return pauses


@pytest.fixture
def deletions_take_time(cloud: Cloud, mocker: MockerFixture) -> MagicMock:
    """What is being deleted is gone after a pause."""
    return mocker.patch('time.sleep', side_effect=lambda _: cloud.deletions_end())


@pytest.fixture
def answers(mocker: MockerFixture) -> MagicMock:
    """A reader at a terminal; side_effect is to be what he answers."""
    mocker.patch('sys.stdin', MagicMock(closed=False, isatty=lambda: True))
    return mocker.patch('builtins.input', side_effect=[])


@pytest.mark.parametrize('changed, name', [
    (None, None), ('start_task', 'start task'), ('publisher', 'image'), ('offer', 'image'), ('sku', 'image'),
    ('vm_size', 'VM size'), ('task_slots', 'number of task slots'), ('script', 'task script')])
def test_a_recipe_tells_which_ingredient_is_another(tmp_path: Path, changed: str | None, name: str | None) -> None:
    script = tmp_path / 'task.py'
    script.write_text('print("task")')
    ingredients = {'task_script': script, 'start_task': ['install', 'check'], 'publisher': 'canonical',
                   'offer': 'ubuntu', 'sku': 'server', 'vm_size': 'standard_d2s_v5', 'task_slots': 2}
    before = recipe(**ingredients)
    if changed == 'script':
        script.write_text('print("newer")')
    elif changed:
        ingredients[changed] = 1 if changed == 'task_slots' else ['install'] if changed == 'start_task' else 'other'

    assert [new.name for new, old in zip(recipe(**ingredients), before) if new.value != old.value] == (
        [name] if name else [])


def test_a_recipe_does_not_know_upper_from_lower_case(tmp_path: Path) -> None:
    (tmp_path / 'task.py').touch()
    made = [recipe(tmp_path / 'task.py', [], publisher, 'o', 's', size, 1)
            for publisher, size in (('Canonical', 'STANDARD_D2S_V5'), ('canonical', 'standard_d2s_v5'))]

    assert made[0] == made[1]


def test_free_names_take_one_look_each(cloud: Cloud, slept: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    assert make_names_free(cloud.run(), RECIPE, replace_pool=False) is False

    assert cloud.deleted == [] and slept == []
    assert capsys.readouterr().out == ''


def test_the_first_contact_is_with_batch_and_with_storage_and_soon_given_up(cloud: Cloud) -> None:
    retries = []
    cloud.batch.job.get.side_effect = lambda _: retries.append(cloud.batch.config.retry_policy.retries)

    make_names_free(cloud.run(), RECIPE, replace_pool=False)

    assert retries[0] == 1 and cloud.batch.config.retry_policy.retries == 3
    assert cloud.asked[:2] == ['list container output', 'get pool mypool']


def test_who_has_signed_in_is_asked_at_first_whether_signing_is_allowed(cloud: Cloud) -> None:
    cloud.blobs.credential = MagicMock(spec=[])
    cloud.blobs.get_user_delegation_key.side_effect = PermissionError

    with pytest.raises(PermissionError):
        make_names_free(cloud.run(), RECIPE, replace_pool=False)

    assert cloud.asked == ['get job myjob']


def test_results_of_an_earlier_run_go_and_nothing_else(cloud: Cloud) -> None:
    output = cloud.has('container', 'output', blobs=['a_OUTPUT.txt', 'theirs.txt'])

    make_names_free(cloud.run(), RECIPE, replace_pool=False)

    assert output.blobs == ['theirs.txt'] and cloud.deleted == []


@pytest.mark.parametrize('state', ['completed', 'terminating'])
def test_a_job_that_has_ended_is_replaced(cloud: Cloud, state: str, deletions_take_time: MagicMock,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    cloud.has('job', 'myjob', state=state)

    make_names_free(cloud.run(ask=True), RECIPE, replace_pool=False)

    assert cloud.deleted == ['myjob'] and 'myjob' not in cloud.things['job']
    assert capsys.readouterr().out == 'Waiting for the job [myjob] of an earlier run to be deleted...\n'


@pytest.mark.parametrize('kind', ['job', 'pool'])
def test_what_is_being_deleted_is_waited_for_with_one_line(
        cloud: Cloud, kind: str, mocker: MockerFixture, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.has(kind, f'my{kind}', state='deleting')
    sleep = mocker.patch('time.sleep')
    sleep.side_effect = lambda _: sleep.call_count == 5 and cloud.deletions_end()

    assert make_names_free(cloud.run(), RECIPE, replace_pool=False) is False

    assert cloud.deleted == [] and sleep.call_count == 5
    assert capsys.readouterr().out == f'Waiting for the {kind} [my{kind}] of an earlier run to be deleted...\n'


def test_waiting_has_an_end(cloud: Cloud, slept: list[float]) -> None:
    cloud.has('pool', 'mypool', state='deleting')

    with pytest.raises(NameTakenError, match=r'pool \[mypool\] .* still being deleted after 0:15:00: try again'):
        make_names_free(cloud.run(), RECIPE, replace_pool=False)

    assert sum(slept) == pytest.approx(15 * 60, abs=6) and max(slept) == 5


@pytest.mark.parametrize('verb', ['get job', 'delete job'])
def test_any_other_answer_is_not_waited_for(cloud: Cloud, slept: list[float], verb: str) -> None:
    cloud.has('job', 'myjob', state='completed')
    cloud.trouble[verb] = batch_error('InternalError', 500)

    with pytest.raises(batchmodels.BatchErrorException):
        make_names_free(cloud.run(), RECIPE, replace_pool=False)

    assert slept == []


@pytest.mark.parametrize('state', ['active', 'disabled', 'enabling'])
@pytest.mark.parametrize('replace_pool, ask', [(True, False), (False, False), (False, True)])
def test_a_job_that_has_not_ended_stays_without_a_question_where_nobody_answers(
        cloud: Cloud, state: str, replace_pool: bool, ask: bool, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.has('job', 'myjob', state=state)
    # What that run may be using stays too.
    cloud.has('pool', 'mypool')
    input_container = cloud.has('container', 'input', blobs=['a.txt'])

    with pytest.raises(NameTakenError) as raised:
        make_names_free(cloud.run(ask=ask), RECIPE, replace_pool=replace_pool)

    assert str(raised.value) == (
        f'Job [myjob] exists and is {state}, so another run may be using it: wait until it has ended, or set another '
        '_JOB_ID at the top of python_tutorial_client.py.')
    assert cloud.deleted == [] and input_container.blobs == ['a.txt'] and capsys.readouterr().out == ''


def test_a_job_that_has_not_ended_stays_if_the_reader_does_not_agree(cloud: Cloud, answers: MagicMock) -> None:
    cloud.has('job', 'myjob')
    answers.side_effect = ['']

    with pytest.raises(NameTakenError, match=r'^It stays: wait until it has ended, or set another _JOB_ID'):
        make_names_free(cloud.run(ask=True), RECIPE, replace_pool=False)

    [question] = answers.call_args.args
    assert question == ('Job [myjob] exists and is active, so another run may be using it. '
                        'Delete it and its tasks? [y/N] ')
    assert cloud.deleted == []


@pytest.mark.usefixtures('deletions_take_time')
def test_a_job_that_has_not_ended_is_replaced_if_the_reader_says_so(cloud: Cloud, answers: MagicMock) -> None:
    cloud.has('job', 'myjob')
    answers.side_effect = ['y']

    make_names_free(cloud.run(ask=True), RECIPE, replace_pool=False)

    assert cloud.deleted == ['myjob']


@pytest.mark.parametrize('mark', [OF_RECIPE, {**OF_RECIPE, 'theirs': 'x'}])
def test_a_pool_of_the_same_recipe_is_used_again(cloud: Cloud, mark: dict[str, str],
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    cloud.has('pool', 'mypool', mark)

    assert make_names_free(cloud.run(), RECIPE, replace_pool=False) is True

    assert cloud.deleted == []
    assert capsys.readouterr().out == 'Pool [mypool] exists. Reuse it? [Y/n] yes\n'


@pytest.mark.usefixtures('deletions_take_time')
@pytest.mark.parametrize('mark', [OF_RECIPE, None])
def test_a_pool_that_is_to_be_replaced_is_deleted_without_a_question(
        cloud: Cloud, answers: MagicMock, mark: dict[str, str] | None) -> None:
    cloud.has('pool', 'mypool', mark)

    assert make_names_free(cloud.run(ask=True), RECIPE, replace_pool=True) is False

    assert cloud.deleted == ['mypool'] and cloud.things['pool'] == {}
    assert not answers.called


@pytest.mark.parametrize('mark, others', [
    (None, 'image, VM size, task script'), ({**OF_RECIPE, 'task script': 'older'}, 'task script')])
def test_a_pool_of_another_recipe_stays_without_a_question(
        cloud: Cloud, mark: dict[str, str] | None, others: str, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.has('pool', 'mypool', mark)

    with pytest.raises(NameTakenError) as raised:
        make_names_free(cloud.run(), RECIPE, replace_pool=False)

    assert str(raised.value) == (
        f'Pool [mypool] exists, and was made with another {others}: run again with --replace-pool, which deletes it '
        'with its nodes and creates it anew, or set another _POOL_ID at the top of python_tutorial_client.py.')
    assert cloud.deleted == [] and capsys.readouterr().out == ''


@pytest.mark.usefixtures('deletions_take_time')
def test_the_reader_is_told_once_why_a_pool_does_not_fit_and_may_have_it_created_anew(
        cloud: Cloud, answers: MagicMock) -> None:
    cloud.has('pool', 'mypool', {**OF_RECIPE, 'task script': 'older'})
    answers.side_effect = ['', 'y']

    with pytest.raises(NameTakenError, match='^It stays: run again with --replace-pool, ') as raised:
        make_names_free(cloud.run(ask=True), RECIPE, replace_pool=False)
    [question] = answers.call_args.args
    kept = cloud.left()
    replaced = not make_names_free(cloud.run(ask=True), RECIPE, replace_pool=False)

    assert 'Pool [mypool] exists, and was made with another task script. Delete it with its nodes' in question
    assert 'another task script' not in str(raised.value)
    assert kept == {'mypool'} and replaced and cloud.deleted == ['mypool']


@pytest.mark.usefixtures('deletions_take_time')
@pytest.mark.parametrize('second, deleted', [('y', ['mypool']), ('', [])])
def test_the_reader_may_want_a_pool_anew_that_fits(cloud: Cloud, answers: MagicMock, second: str,
                                                   deleted: list[str]) -> None:
    cloud.has('pool', 'mypool', OF_RECIPE)
    answers.side_effect = ['n', second]

    try:
        reuses = make_names_free(cloud.run(ask=True), RECIPE, replace_pool=False)
    except NameTakenError:
        reuses = None

    assert reuses is (False if deleted else None) and cloud.deleted == deleted
    assert 'you chose not to reuse it' in answers.call_args.args[0]


class Pool:
    """The pool of an earlier run, all of whose changes take no time."""

    def __init__(self, *node_states: str) -> None:
        self.client = MagicMock()
        self.client.pool.get.return_value = batchmodels.CloudPool(
            id='mypool', allocation_state='steady', start_task=batchmodels.StartTask(
                command_line='prepare', wait_for_success=True,
                resource_files=[batchmodels.ResourceFile(http_url='https://old', file_path='task.py')]))
        self.nodes = [batchmodels.ComputeNode(id=f'node{number}', state=state)
                      for number, state in enumerate(node_states)]
        self.client.compute_node.list.side_effect = lambda *_, **__: list(self.nodes)
        self.client.pool.remove_nodes.side_effect = self._remove
        self.renew = lambda: renew_pool(self.client, 'mypool', [
            batchmodels.ResourceFile(http_url='https://new', file_path='task.py')], 2)

    def _remove(self, pool_id: str, parameter: batchmodels.NodeRemoveParameter) -> None:
        assert len(parameter.node_list) <= 100
        self.nodes = [node for node in self.nodes if node.id not in parameter.node_list]


def test_a_pool_that_is_used_again_gets_the_files_of_this_run(capsys: pytest.CaptureFixture[str]) -> None:
    pool = Pool('idle', 'running', 'idle')

    pool.renew()

    assert capsys.readouterr().out == 'Reusing pool [mypool]...\n'
    pool_id, patch = pool.client.pool.patch.call_args.args
    assert (pool_id, patch.start_task.command_line, patch.start_task.wait_for_success) == ('mypool', 'prepare', True)
    assert [file.http_url for file in patch.start_task.resource_files] == ['https://new']
    pool.client.pool.remove_nodes.assert_not_called()
    pool.client.pool.resize.assert_not_called()


@pytest.mark.parametrize('states, kept, resized', [
    (('starttaskfailed', 'idle', 'unusable'), ['node1'], True),
    (('starttaskfailed', 'idle', 'idle'), ['node1', 'node2'], False),
    ((), [], True), (('idle',), ['node0'], True), (('unusable',) * 250, [], True)])
def test_broken_nodes_go_and_those_that_lack_are_added(states: tuple[str, ...], kept: list[str], resized: bool) -> None:
    pool = Pool(*states)

    pool.renew()

    assert [node.id for node in pool.nodes] == kept
    assert [call.args[1].target_dedicated_nodes for call in pool.client.pool.resize.call_args_list] == [2] * resized


@pytest.mark.parametrize('state', ['creating', 'starting', 'rebooting', 'reimaging', 'waitingforstarttask'])
def test_nodes_on_their_way_up_are_waited_for_before_they_are_judged(
        state: str, mocker: MockerFixture, capsys: pytest.CaptureFixture[str]) -> None:
    pool = Pool(state, 'idle')
    mocker.patch('time.sleep', lambda _: setattr(pool.nodes[0], 'state', 'starttaskfailed'))

    pool.renew()

    assert '  Waiting for the nodes of pool [mypool]...\n' in capsys.readouterr().out
    assert [node.id for node in pool.nodes] == ['node1']


def test_a_pool_that_is_being_resized_is_waited_for(mocker: MockerFixture) -> None:
    pool = Pool('idle')
    existing = pool.client.pool.get.return_value
    existing.allocation_state = 'resizing'
    mocker.patch('time.sleep', lambda _: setattr(existing, 'allocation_state', 'steady'))

    pool.client.pool.resize.side_effect = lambda *_: states.append(existing.allocation_state)
    states: list[str] = []

    pool.renew()

    assert states == ['steady']


def test_nodes_that_stay_on_their_way_are_not_waited_for_for_ever(slept: list[float]) -> None:
    with pytest.raises(NameTakenError, match=r'nodes of pool \[mypool\] are not ready after 0:15:00: run again with'):
        Pool('starting').renew()

    assert sum(slept) <= 15 * 60 + 5
