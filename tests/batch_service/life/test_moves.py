from __future__ import annotations

import itertools

import pytest

from common.batch_service.life import moves


@pytest.mark.parametrize('kind', ['pool', 'job', 'task', 'node'])
def test_every_move_leads_to_a_state_that_has_moves_of_its_own(kind: str) -> None:
    table = moves._MOVES[kind]
    assert {state for targets in table.values() for state in targets} <= set(table)


@pytest.mark.parametrize(('kind', 'before', 'after'), [
    (kind, before, after) for kind, table in moves._MOVES.items() for before, after in itertools.product(table, table)])
def test_moves_are_those_of_the_table_and_no_others(kind: str, before: str, after: str) -> None:
    document = {'id': 'x', 'state': before, 'stateTransitionTime': 'then'}
    if after in moves._MOVES[kind][before]:
        moves.move(kind, document, after)
        assert document['state'] == after
        assert document['stateTransitionTime'] != 'then'
        assert document.get('previousState') == (before if kind in ('job', 'task') else None)
        assert document.get('previousStateTransitionTime') == ('then' if kind in ('job', 'task') else None)
    else:
        with pytest.raises(moves.WrongMove, match=f'{kind} x cannot become {after}: it is {before}'):
            moves.move(kind, document, after)
        assert document['state'] == before


@pytest.mark.parametrize(('first', 'second', 'strongest'), [
    ('wait', 'requeue', 'requeue'), ('requeue', 'terminate', 'terminate'), ('terminate', 'forget', 'forget'),
    ('forget', 'terminate', 'forget'), ('terminate', 'requeue', 'terminate'), ('requeue', 'wait', 'requeue'),
    ('wait', 'wait', 'wait')])
def test_strongest_wish_wins(first: str, second: str, strongest: str) -> None:
    document: dict[str, str] = {}
    assert moves.wish(document, first)
    assert moves.wish(document, second) == (strongest != first)
    assert document == {'_end': strongest}
