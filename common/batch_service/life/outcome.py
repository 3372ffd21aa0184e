"""How a command ended on a node, and how its end is written into documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..values import now

Document = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        exit_code: None if no process was started; negative, the signal's number, if it died of one.
        failure_info: As on the wire; None if all went well.
    """

    exit_code: int | None
    failure_info: Document | None

    @property
    def succeeded(self) -> bool:
        return self.failure_info is None


def failure(code: str, message: str, category: str = 'usererror') -> Document:
    """Returns a failureInfo without details, as on the wire."""
    return {'category': category, 'code': code, 'message': message, 'details': []}


ENDED = Outcome(None, failure('TaskEnded', 'The task was ended by a request'))
"""Of what was not run to its end, and of whose end nothing else is known."""


def began(information: Document | None = None) -> Document:
    """Returns the information of a start, preparation or release task that runs; the one before, if it is tried again.
    """
    if information is None:
        return {'state': 'running', 'startTime': now(), 'retryCount': 0}
    return information | {'retryCount': information['retryCount'] + 1, 'lastRetryTime': now()}


def ended(information: Document, outcome: Outcome) -> Document:
    """Returns the information of such a task when its command has ended."""
    information = information | {'state': 'completed', 'endTime': now(),
                                 'result': 'success' if outcome.succeeded else 'failure'}
    if outcome.exit_code is not None:
        information['exitCode'] = outcome.exit_code
    if outcome.failure_info:
        information['failureInfo'] = outcome.failure_info
    return information


def is_tried_again(information: Document, outcome: Outcome, most: int) -> bool:
    """Says whether such a task, with so many retries (-1: any number), is run again after this end."""
    return not outcome.succeeded and outcome.exit_code is not None and (most < 0 or information['retryCount'] < most)
