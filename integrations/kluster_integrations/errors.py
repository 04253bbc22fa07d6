"""What can go wrong, by cause, and the one place that maps everything else into it.

    KlusterError
    ├── AuthenticationError          401, or no key at all
    ├── PermissionDeniedError        403
    ├── NotFoundError                404
    ├── BadRequestError              400, 422 and other 4xx; also what is refused before a request
    │   ├── UnsupportedParameterError    kluster.ai has no such parameter
    │   └── ContextWindowExceededError   the prompt does not fit
    ├── RateLimitError               429
    ├── InternalServerError          5xx, and responses we cannot parse
    ├── APIConnectionError           no connection, or it broke
    │   ├── APITimeoutError              nothing came in time
    │   └── TruncatedStreamError         the stream stopped before the answer was complete
    ├── OutputValidationError        the model's text is not what was asked for
    ├── BudgetExceededError          a `budget` is spent, or cannot count the model; nothing was sent
    ├── BatchFailedError             the service refused a batch job as a whole
    ├── BatchExpiredError            the window of a batch job ended before all of it was answered
    ├── JobLockedError               another process, thread or task works on this folder's batch job
    ├── SubmissionUnclearError       a batch job may or may not have been created
    └── CostLimitError               it would cost more than `max_cost`

An HTTP error is judged by its status alone: kluster.ai has answered a 500 with `"type": "invalid_request_error"` and
`errorCode` in place of `code` (reference/kluster-api.md, Errors). Keys never enter: the HTTP library's exceptions,
which hold the request, are replaced, and a key that a server echoes is masked.
"""

from kluster_integrations.core.errors import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    BatchExpiredError,
    BatchFailedError,
    BudgetExceededError,
    ContextWindowExceededError,
    CostLimitError,
    InternalServerError,
    JobLockedError,
    KlusterError,
    NotFoundError,
    OutputValidationError,
    PermissionDeniedError,
    RateLimitError,
    SubmissionUnclearError,
    TruncatedStreamError,
    UnsupportedParameterError,
    from_body,
    mapped,
    masked,
)

__all__ = [
    "APIConnectionError",
    "APITimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "BatchExpiredError",
    "BatchFailedError",
    "BudgetExceededError",
    "ContextWindowExceededError",
    "CostLimitError",
    "InternalServerError",
    "JobLockedError",
    "KlusterError",
    "NotFoundError",
    "OutputValidationError",
    "PermissionDeniedError",
    "RateLimitError",
    "SubmissionUnclearError",
    "TruncatedStreamError",
    "UnsupportedParameterError",
    "from_body",
    "mapped",
    "masked",
]
