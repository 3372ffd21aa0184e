"""Reading a request's JSON: each property is converted, filled in, or refused by name.

A shape maps the names of an object's properties to fields; a field converts one value or says why it cannot.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Mapping

from ..errors import BatchError, invalid_property
from ..values import duration, duration_text

Convert = Callable[[Any, str], Any]
_NOTHING = object()


@dataclass(frozen=True)
class Field:
    """How one property is read.

    Attributes:
        convert: Takes the value and the property's path; returns the value to keep, _NOTHING to leave the property out,
            or raises BatchError.
        required: Whether a request must carry it.
        default: The value, already converted, where the request has none; left out if there is no default.
    """

    convert: Convert
    required: bool = False
    default: Any = _NOTHING

    def __call__(self, *, required: bool = False, default: Any = _NOTHING) -> Field:
        return Field(self.convert, required, default)


Shape = Mapping[str, Field]


def read(shape: Shape, value: Any, path: str = '', *, fill: bool = True) -> dict[str, Any]:
    """The object that a request's value stands for.

    Args:
        shape: The properties it may have.
        value: The parsed JSON.
        path: Where the value stands in the request, for errors.
        fill: Whether required properties are demanded and defaults filled in; not when a client patches.

    Raises:
        BatchError: InvalidRequestBody, MissingRequiredProperty, InvalidPropertyValue, UnsupportedProperty and the
            like, with the property's name.
    """
    if not isinstance(value, dict):
        raise invalid_property(path, value, 'Expected an object') if path else BatchError('InvalidRequestBody')
    known = {}
    for name, item in value.items():
        if name.startswith('odata.') or item is None:
            continue
        if name not in shape:
            raise BatchError('UnsupportedProperty', PropertyName=path + name)
        if (converted := shape[name].convert(item, path + name)) is not _NOTHING:
            known[name] = converted
    if fill:
        for name, field in shape.items():
            if name in known:
                continue
            if field.required:
                raise BatchError('MissingRequiredProperty', PropertyName=path + name)
            if field.default is not _NOTHING:
                known[name] = field.default() if callable(field.default) else field.default
    return known


def only(shape: Shape, names: Iterable[str]) -> Shape:
    """The part of a shape with these properties."""
    return {name: shape[name] for name in names}


def object_of(shape: Shape) -> Field:
    """An object of another shape."""
    return Field(lambda value, path: read(shape, value, path + '.'))


def list_of(item: Field, *, least: int = 0, most: int | None = None) -> Field:
    """A list whose every element is read by the same field."""
    def convert(value: Any, path: str) -> list[Any]:
        if not isinstance(value, list):
            raise invalid_property(path, value, 'Expected a list')
        if len(value) < least or (most is not None and len(value) > most):
            raise invalid_property(path, f'{len(value)} elements', f'Expected {least} to {most} elements')
        return [item.convert(element, f'{path}[{index}]') for index, element in enumerate(value)]
    return Field(convert)


def text(*, most: int | None = None, least: int = 0) -> Field:
    """A string of bounded length."""
    def convert(value: Any, path: str) -> str:
        if not isinstance(value, str):
            raise invalid_property(path, value, 'Expected a string')
        if len(value) < least or (most is not None and len(value) > most):
            raise invalid_property(path, value, f'Expected {least} to {most or "any number of"} characters')
        if _UNFIT.search(value):
            raise invalid_property(path, value.encode(errors='backslashreplace').decode(),
                                   'A character is NUL or half of a surrogate pair')
        return value
    return Field(convert)


_UNFIT = re.compile('[\0\ud800-\udfff]')
_ID = re.compile(r'[A-Za-z0-9_-]{1,64}')


def _id(value: Any, path: str) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise invalid_property(path, value, 'An id has 1 to 64 letters, digits, hyphens and underscores')
    return value


def integer(least: int = -1 << 31, most: int = (1 << 31) - 1, *, code: str = 'InvalidPropertyValue') -> Field:
    """A whole number within bounds, of 32 bits as in the service; the Azure CLI sends numbers as strings."""
    def convert(value: Any, path: str) -> int:
        if isinstance(value, str) and re.fullmatch(r'-?[0-9]{1,18}', value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise invalid_property(path, value, 'Expected a whole number')
        if not least <= value <= most:
            raise BatchError(code, PropertyName=path, PropertyValue=value, Reason=f'Expected {least} to {most}')
        return value
    return Field(convert)


def one_of(*choices: str) -> Field:
    """One word of a list, in any case; kept as the list writes it."""
    by_lower_case = {choice.lower(): choice for choice in choices}

    def convert(value: Any, path: str) -> str:
        if not isinstance(value, str) or value.lower() not in by_lower_case:
            raise invalid_property(path, value, f'Expected one of: {", ".join(choices)}')
        return by_lower_case[value.lower()]
    return Field(convert)


def duration_of(least: str = 'PT0S', most: str | None = None) -> Field:
    """An ISO 8601 duration within bounds, normalised."""
    def convert(value: Any, path: str) -> str:
        try:
            length = duration(str(value))
        except ValueError as error:
            raise invalid_property(path, value, 'Expected an ISO 8601 duration such as PT30M') from error
        if length is not None and length < duration(least):
            raise invalid_property(path, value, f'Expected at least {least}')
        if most and (length is None or length > duration(most)):
            raise invalid_property(path, value, f'Expected at most {most}')
        return duration_text(length)
    return Field(convert)


def refused(why: str, *, unless: tuple[str, ...] = ()) -> Field:
    """A property that this service does not imitate: refused by name, or left out where its value changes nothing.

    Args:
        why: What is not imitated, in the plural.
        unless: The words that change nothing, besides false, an empty text, an empty list and objects of such values.
    """
    def changes_nothing(value: Any) -> bool:
        if isinstance(value, dict):
            return all(map(changes_nothing, value.values()))
        return (value is None or value is False or value in ('', [])
                or isinstance(value, str) and value.lower() in unless)

    def convert(value: Any, path: str) -> Any:
        if changes_nothing(value):
            return _NOTHING
        raise BatchError('UnsupportedProperty', f'The local Batch service does not imitate {why} (property {path}).',
                         PropertyName=path, Reason=f'{why} are not imitated locally')
    return Field(convert)


def _echoed_object(value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise invalid_property(path, value, 'Expected an object')
    return _echoed(value, path)


def _echoed(value: Any, path: str) -> Any:
    """Any value that the store can keep and every client can read."""
    if isinstance(value, str):
        return TEXT.convert(value, path)
    if isinstance(value, dict):
        return {TEXT.convert(name, path): _echoed(item, f'{path}.{name}') for name, item in value.items()}
    if isinstance(value, list):
        return [_echoed(item, f'{path}[{index}]') for index, item in enumerate(value)]
    if isinstance(value, int) and not -1 << 63 <= value < 1 << 63:
        raise invalid_property(path, value, 'Expected a number of 64 bits')
    return value


def _boolean(value: Any, path: str) -> bool:
    if isinstance(value, str) and value.lower() in ('true', 'false'):
        return value.lower() == 'true'
    if not isinstance(value, bool):
        raise invalid_property(path, value, 'Expected true or false')
    return value


ID = Field(_id)
BOOLEAN = Field(_boolean)
ECHOED = Field(_echoed_object)
TEXT = text()
