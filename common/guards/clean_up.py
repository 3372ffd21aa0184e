"""Against what costs money and stays: whatever ends the run, what bears its mark goes, unless the reader keeps it."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from common.guards.end_of_run import FORESEEABLE, print_error_line, say_to_anybody
from common.guards.one_line import one_line
from common.guards.patience import soon_given_up
from common.guards.run import Run
from common.helpers import InterruptedQuestion, query_yes_no
from common.loopback import is_loopback


@contextmanager
def cleaned_up_after_errors(run: Run) -> Iterator[None]:
    """When the with block ends by an error, Ctrl-C or a signal, deletes what the run has made; the error goes on.

    Results that were not fetched stay, and are named, unless it was the reader who stopped the run.
    """
    try:
        yield
    except BaseException as error:
        with soon_given_up(run.batch):
            _clean_up(run, error)
        raise


def _clean_up(run: Run, error: BaseException) -> None:
    stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
    say_to_anybody(f'\n{"Interrupted" if stopped else one_line(error)}\n'
                   'Cleaning up; press Ctrl-C to leave at once...')
    if isinstance(error, InterruptedQuestion):
        _take_for_yes(run)
    # SIGTERM comes from a program, and SIGHUP when the terminal is gone: nobody will answer.
    run.ask = run.ask and not isinstance(error, SystemExit)
    unfetched = '' if stopped or run.results_fetched else run.container_names[-1]
    # Job and pool first: a node that is still starting needs what is in the containers.
    things = [*run.ids.items(), *(('container', name) for name in run.container_names)]
    try:
        while things:
            things = _without_the_first(run, things, unfetched)
    except (KeyboardInterrupt, SystemExit):
        _say_they_may_be_left(run, things, unfetched)


def _without_the_first(run: Run, things: list[tuple[str, str]], unfetched: str) -> list[tuple[str, str]]:
    """Deletes the first of the things, but not results in the container unfetched; returns what is still to go."""
    kind, name = things[0]
    try:
        _delete(run, kind, name, unfetched)
        return things[1:]
    except SystemExit:
        run.ask = False
        return things
    except FORESEEABLE as trouble:
        if not say_to_anybody(''):
            return things
        # A service that gives no answer is not asked again: that takes its time.
        answers = getattr(trouble, 'response', None) is not None
        given_up = [thing for thing in things
                    if thing == things[0] or not answers and (thing[0] == 'container') == (kind == 'container')]
        _say_they_may_be_left(run, given_up, unfetched, f' ({one_line(trouble)})')
        return [thing for thing in things if thing not in given_up]


def _delete(run: Run, kind: str, name: str, unfetched: str) -> None:
    if kind != 'container':
        if run.has(kind, run.mark):
            try:
                answer = query_yes_no(f'Delete {kind}?', ask=run.ask)
            except InterruptedQuestion:
                answer = _take_for_yes(run)
            if answer == 'yes':
                run.operations[kind].delete(name)
        elif run.find(kind) is None:
            return
        say_what_is_left(run, kind)
    elif name == unfetched and run.blob_names(name):
        print_error_line(f'The results that were not fetched stay in container [{name}]; {_how_to_fetch(run, name)}')
    elif run.has_made_container(name):
        print(f'Deleting container [{name}]...')
        run.blobs.delete_container(name)
    else:
        run.delete_blobs(name)


def _take_for_yes(run: Run) -> str:
    print('  Ctrl-C counts as the answer that leaves nothing behind, here and from now on.')
    run.ask = False
    return 'yes'


def _say_they_may_be_left(run: Run, things: list[tuple[str, str]], unfetched: str, reason: str = '') -> None:
    for kind, name in things:
        what_to_do = (f', perhaps with results that were not fetched; {_how_to_fetch(run, name)}'
                      if kind == 'container' and name == unfetched else f'; {run.how_to_delete(kind, name)}')
        print_error_line(f'{kind.capitalize()} [{name}] may be left{what_to_do}{reason}')


def _how_to_fetch(run: Run, container_name: str) -> str:
    if is_loopback(run.account.storage_account_url):
        return ('to fetch them, start "python -m common.local_azure" and use any client of Azure Storage with the '
                'settings that it prints, before the next run deletes them')
    return (f'to fetch them: az storage blob download-batch --source {container_name} --destination . '
            f'--account-name {run.account.storage_account_name}')


def say_what_is_left(run: Run, *kinds: str) -> None:
    """Says of the job and of the pool, or of the kinds given, whether they are deleted or kept, and what that means."""
    for kind in kinds or run.ids:
        found, what = run.find(kind), f'{kind.capitalize()} [{run.ids[kind]}]'
        if found is None or found.state == 'deleting':
            print(f'  {what} is {"deleted" if found is None else "being deleted"}.')
            continue
        next_run = 'the next run replaces it' if kind == 'job' else 'the next run offers to reuse it'
        costs = '' if is_loopback(run.account.batch_account_url) else f'; {run.how_to_delete(kind, run.ids[kind])}'
        print(f'  {what} is kept: {next_run}{costs}')
