"""What the service answers when it refuses: one catalogue of codes, one exception.

Codes and statuses: https://learn.microsoft.com/rest/api/batchservice/batch-status-and-error-codes, but for
OperationNotImitated, which is this service's own.
"""

from __future__ import annotations

import sqlite3
from typing import Any

_CATALOGUE: dict[str, tuple[int, str]] = {
    'ApplicationNotFound': (404, 'The specified application does not exist.'),
    'AuthenticationFailed': (403, 'Server failed to authenticate the request. Make sure the value of the '
                                  'Authorization header is formed correctly including the signature.'),
    'CertificateNotFound': (404, 'The specified certificate does not exist.'),
    'ConditionNotMet': (412, 'The condition specified using HTTP conditional header(s) is not met.'),
    'EmptyMetadataKey': (400, 'The key of one of the metadata items is empty.'),
    'FileNotFound': (404, 'The specified file does not exist.'),
    'InternalError': (500, 'Server encountered an internal error. Please try again after some time.'),
    'InvalidAuthenticationInfo': (400, 'Authentication information is not given in the correct format. '
                                       'Check the value of the Authorization header.'),
    'IOError': (403, 'The specified file cannot be read or removed on its node.'),
    'InvalidHeaderValue': (400, 'The value for one of the HTTP headers is not in the correct format.'),
    'InvalidHttpVerb': (400, 'The HTTP verb specified was not recognized by the server.'),
    'InvalidPropertyValue': (400, 'The value provided for one of the properties in the request body is invalid.'),
    'InvalidQueryParameterValue': (400, 'Value for one of the query parameters specified in the request URI is '
                                        'invalid.'),
    'InvalidRange': (416, 'The range specified is invalid for the current size of the resource.'),
    'InvalidRequestBody': (400, 'The specified Request Body is not syntactically valid.'),
    'InvalidUri': (400, 'The requested URI does not represent any resource on the server.'),
    'JobBeingDeleted': (409, 'The specified job is being deleted.'),
    'JobBeingTerminated': (409, 'The specified job is being terminated.'),
    'JobCompleted': (409, 'The specified job is already in a completed state.'),
    'JobExists': (409, 'The specified job already exists.'),
    'JobNotFound': (404, 'The specified job does not exist.'),
    'JobPreparationTaskOrReleaseTaskNotSpecified': (409, 'The job has neither a job preparation task nor a job '
                                                         'release task.'),
    'JobScheduleNotFound': (404, 'The specified job schedule does not exist.'),
    'MissingRequiredProperty': (400, 'A required property was not specified in the request body.'),
    'MissingRequiredQueryParameter': (400, 'A query parameter that is mandatory for this request is not specified.'),
    'MultipleConditionHeadersNotSupported': (400, 'Multiple condition headers are not supported.'),
    'NodeAgentSKUNotFound': (404, 'The specified node agent SKU does not exist.'),
    'NodeAlreadyInTargetSchedulingState': (409, 'The specified node is already in the target scheduling state.'),
    'NodeBeingCreated': (409, 'The specified node is being created.'),
    'NodeBeingRebooted': (409, 'The specified node is being rebooted.'),
    'NodeBeingReimaged': (409, 'The specified node is being reimaged.'),
    'NodeBeingStarted': (409, 'The specified node is being started.'),
    'NodeNotFound': (404, 'The specified node does not exist.'),
    'NodeNotReady': (409, 'The specified node is not ready.'),
    'NodeStateUnusable': (409, 'The specified node is in an unusable state.'),
    'OperationInvalidForCurrentState': (409, 'The specified operation is not valid for the current state of the '
                                             'resource.'),
    'OperationNotImitated': (400, 'The local Batch service does not imitate this operation.'),
    'OutOfRangePriority': (400, 'The priority is out of range.'),
    'OutOfRangeQueryParameterValue': (400, 'A query parameter specified in the request URI is outside the '
                                           'permissible range.'),
    'PoolBeingDeleted': (409, 'The specified pool is being deleted.'),
    'PoolBeingResized': (409, 'The specified pool is being resized.'),
    'PoolExists': (409, 'The specified pool already exists.'),
    'PoolNotFound': (404, 'The specified pool does not exist.'),
    'RequestBodyTooLarge': (413, 'The size of the request body exceeds the maximum permitted limit.'),
    'ServerBusy': (503, 'The server is busy. Please retry after some time.'),
    'TaskCompleted': (409, 'The specified task is already in a completed state.'),
    'TaskDependenciesNotSpecifiedOnJob': (400, 'The job does not use task dependencies.'),
    'TaskDependencyListTooLong': (400, 'The ids of the tasks that the task depends on are too long together.'),
    'TaskExists': (409, 'The specified task already exists.'),
    'TaskFilesCleanedup': (409, 'The files of the specified task have been cleaned up.'),
    'TaskFilesUnavailable': (409, 'The files of the specified task are unavailable: its node is gone.'),
    'TaskIdSameAsJobPreparationTask': (409, "The task's id is the one of the job preparation task."),
    'TaskIdSameAsJobReleaseTask': (409, "The task's id is the one of the job release task."),
    'TaskNotCompleted': (409, 'The specified task is not in a completed state.'),
    'TaskNotFound': (404, 'The specified task does not exist.'),
    'TaskSucceeded': (409, 'The specified task has succeeded.'),
    'TooManyRequests': (429, 'Too many requests. Please retry after some time.'),
    'UnsupportedHttpVerb': (405, "The resource doesn't support the specified HTTP verb."),
    'UnsupportedProperty': (400, 'One of the properties specified in the request body is not supported.'),
    'UnsupportedQueryParameter': (400, 'One of the query parameters specified in the request URI is not supported.'),
    'UnsupportedRequestVersion': (400, 'The version of the request is not supported.'),
}
_LONGEST_VALUE = 4096


class BatchError(Exception):
    """The service refuses a request.

    Args:
        code: One of the catalogue's codes, ``'PoolNotFound'`` for instance.
        message: Said instead of the code's own sentence where that would not help.
        values: The error's ``values`` on the wire, such as ``PropertyName='id', Reason='...'``.
    """

    def __init__(self, code: str, message: str | None = None, **values: Any) -> None:
        self.code = code
        self.status, sentence = _CATALOGUE[code]
        self.message = message or sentence
        self.values = values
        super().__init__(f'{code}: {self.message}')

    def document(self) -> dict[str, Any]:
        """The error as an add-task result carries it; a whole answer adds the metadata link."""
        document: dict[str, Any] = {'code': self.code, 'message': {'lang': 'en-US', 'value': self.message}}
        if self.values:
            document['values'] = [{'key': key, 'value': str(value)[:_LONGEST_VALUE]}
                                  for key, value in self.values.items()]
        return document


def invalid_property(name: str, value: Any, reason: str) -> BatchError:
    """The refusal of one property's value, which names the property, the value and the reason."""
    return BatchError('InvalidPropertyValue', PropertyName=name, PropertyValue=value, Reason=reason)


def needs_trace(error: Exception) -> bool:
    """Whether the log is to say where an error comes from: a disk that is full or broken is nobody's fault."""
    return not (isinstance(error, OSError) or isinstance(error, sqlite3.OperationalError) and 'disk' in str(error))
