"""``$filter``: from OData to a condition in SQL, and which properties each list can be filtered by.

https://learn.microsoft.com/rest/api/batchservice/odata-filters-in-batch
https://learn.microsoft.com/azure/batch/batch-efficient-list-queries
"""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from typing import Any, Mapping

from .errors import BatchError
from .values import timestamp

EQUAL = frozenset({'Eq'})
EQUALITY = EQUAL | {'NotEq'}
ORDER = EQUALITY | {'Gt', 'GtE', 'Lt', 'LtE'}
ORDER_OR_PREFIX = ORDER | {'startswith'}

Filterable = Mapping[str, frozenset[str]]
"""For each property, slashes between its levels, the comparisons that the list allows."""

_TIMES = {'stateTransitionTime': ORDER, 'creationTime': ORDER, 'lastModified': ORDER}

IMAGES: Filterable = dict.fromkeys(('osType', 'verificationType', 'nodeAgentSKUId'), EQUALITY)
POOLS: Filterable = {
    'id': ORDER_OR_PREFIX, **_TIMES, 'allocationStateTransitionTime': ORDER,
    **dict.fromkeys(('state', 'allocationState', 'vmSize', 'enableAutoScale', 'enableInterNodeCommunication'),
                    EQUALITY)}
NODES: Filterable = {
    'state': EQUALITY, 'stateTransitionTime': ORDER, 'lastBootTime': ORDER, 'allocationTime': ORDER,
    'startTaskInfo/state': EQUAL, 'startTaskInfo/result': EQUALITY, 'startTaskInfo/exitCode': ORDER,
    'startTaskInfo/startTime': ORDER, 'startTaskInfo/endTime': ORDER}
JOBS: Filterable = {
    'id': ORDER_OR_PREFIX, 'state': EQUALITY, **_TIMES, 'executionInfo/startTime': ORDER,
    'executionInfo/endTime': ORDER, 'executionInfo/poolId': ORDER_OR_PREFIX}
TASKS: Filterable = {
    'id': ORDER_OR_PREFIX, 'state': EQUALITY, 'stateTransitionTime': ORDER, 'creationTime': ORDER,
    'lastModifiedTime': ORDER, 'executionInfo/startTime': ORDER, 'executionInfo/endTime': ORDER,
    'executionInfo/exitCode': ORDER, 'executionInfo/result': EQUALITY}

PREPARATIONS: Filterable = {
    'poolId': EQUALITY, 'nodeId': EQUALITY,
    **{f'{task}ExecutionInfo/{name}': comparisons
       for task in ('jobPreparationTask', 'jobReleaseTask')
       for name, comparisons in (('state', EQUAL), ('result', EQUALITY), ('startTime', ORDER), ('endTime', ORDER),
                                 ('exitCode', ORDER))}}

_OPERATORS = {'Eq': '=', 'NotEq': '<>', 'Gt': '>', 'GtE': '>=', 'Lt': '<', 'LtE': '<='}
_MIRRORED = {'Gt': 'Lt', 'GtE': 'LtE', 'Lt': 'Gt', 'LtE': 'GtE'}
_DATE_OR_STRING = re.compile(r"(?i:datetime)'([^']*)'|'(?:[^']|'')*'")
_MOST_COMPARISONS = 200
_OTHER_NAMES = {'lastModifiedTime': 'lastModified'}


def condition(text: str, filterable: Filterable) -> tuple[str, list[Any]]:
    """The condition on a table of JSON documents that a filter stands for.

    Args:
        text: The value of ``$filter``.
        filterable: What the list allows.

    Returns:
        The SQL text, over a column ``doc`` and a column ``state``, and its parameters.

    Raises:
        BatchError: InvalidQueryParameterValue, with the reason, for what is no filter or not allowed.
    """
    from odata_query import exceptions, grammar  # costs more than the rest of the service's start

    try:
        tree = grammar.ODataParser().parse(grammar.ODataLexer().tokenize(_DATE_OR_STRING.sub(_plain_date, text)))
        parameters: list[Any] = []
        return _sql(tree, filterable, parameters), parameters
    except (exceptions.ODataException, ValueError, RecursionError) as error:
        raise BatchError('InvalidQueryParameterValue', QueryParameterName='$filter', QueryParameterValue=text,
                         Reason='The filter is nested too deeply' if isinstance(error, RecursionError)
                         else str(error)) from error


def name_prefix(text: str | None) -> str:
    """What the names of files must start with: the one filter on files is ``startswith(name, '...')``.

    Raises:
        BatchError: InvalidQueryParameterValue for any other filter.
    """
    if not text:
        return ''
    match = re.fullmatch(r"\s*startswith\(\s*name\s*,\s*'((?:[^']|'')*)'\s*\)\s*", text)
    if not match:
        raise BatchError('InvalidQueryParameterValue', QueryParameterName='$filter', QueryParameterValue=text,
                         Reason="Files can be filtered by startswith(name, '...') only")
    return match[1].replace("''", "'")


def selects_pool(text: str | None, pool_id: str) -> bool:
    """Whether the one filter on node counts, ``poolId eq '...'``, lets a pool through.

    Raises:
        BatchError: InvalidQueryParameterValue for any other filter.
    """
    if not text:
        return True
    match = re.fullmatch(r"\s*poolId\s+eq\s+'([^']*)'\s*", text)
    if not match:
        raise BatchError('InvalidQueryParameterValue', QueryParameterName='$filter', QueryParameterValue=text,
                         Reason="Node counts can be filtered by poolId eq '...' only")
    return match[1].lower() == pool_id.lower()


def _plain_date(match: re.Match[str]) -> str:
    """``DateTime'...'``, Batch's own form, in the parser's: bare ISO 8601."""
    text = match[1]
    if text is None:
        return match[0]
    return text if re.match(r'\d{4}-', text) else timestamp(parsedate_to_datetime(text))


def _sql(node: Any, filterable: Filterable, parameters: list[Any]) -> str:
    kind = type(node).__name__
    if kind == 'BoolOp':
        left, right = (_sql(side, filterable, parameters) for side in (node.left, node.right))
        return f'({left} {type(node.op).__name__.upper()} {right})'
    if kind == 'UnaryOp' and type(node.op).__name__ == 'Not':
        return f'(NOT {_sql(node.operand, filterable, parameters)})'
    if kind == 'Call' and node.func.name == 'startswith':
        name, prefix = _property(node.args[0]), _literal(node.args[1])
        _allow(name, 'startswith', filterable)
        parameters.append(prefix)
        return f"(lower(substr({_column(name)}, 1, length(?{len(parameters)}))) = lower(?{len(parameters)}))"
    if kind == 'Compare' and type(node.comparator).__name__ in _OPERATORS:
        return _comparison(node.left, type(node.comparator).__name__, node.right, filterable, parameters)
    raise ValueError(f'{kind} is not supported in a filter')


def _comparison(left: Any, operator: str, right: Any, filterable: Filterable, parameters: list[Any]) -> str:
    if hasattr(left, 'val'):
        left, operator, right = right, _MIRRORED.get(operator, operator), left
    name = _property(left)
    _allow(name, operator, filterable)
    value = _literal(right)
    parameters.append(value)
    if len(parameters) > _MOST_COMPARISONS:
        raise ValueError(f'The filter has more than {_MOST_COMPARISONS} comparisons')
    column, sign, place = _column(name), _OPERATORS[operator], f'?{len(parameters)}'
    if name == 'state':
        parameters[-1] = str(value).lower()
        return f'({column} {sign} {place})'
    if type(right).__name__ == 'DateTime':
        # Without the Z, moments with and without a fraction sort as text.
        return f"(rtrim({column}, 'Z') {sign} rtrim({place}, 'Z'))"
    return f'({column} {sign} {place} COLLATE NOCASE)'


def _property(node: Any) -> str:
    if type(node).__name__ == 'Identifier':
        return node.name
    if type(node).__name__ == 'Attribute':
        return f'{_property(node.owner)}/{node.attr}'
    raise ValueError('A comparison needs the name of a property')


def _allow(name: str, operator: str, filterable: Filterable) -> None:
    if name not in filterable:
        raise ValueError(f'The property {name!r} cannot be filtered by; possible: {", ".join(sorted(filterable))}')
    if operator not in filterable[name]:
        raise ValueError(f'The property {name!r} cannot be compared with {operator.lower()!r}')


def _literal(node: Any) -> Any:
    kind = type(node).__name__
    if kind == 'Integer':
        if abs(int(node.val)) >= 1 << 63:
            raise ValueError(f'The number {node.val} is too large')
        return int(node.val)
    if kind == 'Boolean':
        return node.val.lower() == 'true'
    if kind in ('String', 'DateTime'):
        return node.val
    raise ValueError('A comparison needs a value: a string, a number, true, false or a date')


def _column(name: str) -> str:
    if name == 'state':
        return 'state'
    path = '.'.join(_OTHER_NAMES.get(part, part) for part in name.split('/'))
    return f"json_extract(doc, '$.{path}')"
