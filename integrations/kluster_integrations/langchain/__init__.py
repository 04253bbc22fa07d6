"""kluster.ai for LangChain: `ChatKluster`, a chat model."""

from kluster_integrations.langchain._errors import (
    KlusterAPIConnectionError,
    KlusterAPITimeoutError,
    KlusterAuthenticationError,
    KlusterBadRequestError,
    KlusterContextOverflowError,
    KlusterInternalServerError,
    KlusterNotFoundError,
    KlusterOutputValidationError,
    KlusterPermissionDeniedError,
    KlusterRateLimitError,
    KlusterTruncatedStreamError,
    KlusterUnsupportedParameterError,
)
from kluster_integrations.langchain.chat_models import ChatKluster

__all__ = [
    "ChatKluster",
    "KlusterAPIConnectionError",
    "KlusterAPITimeoutError",
    "KlusterAuthenticationError",
    "KlusterBadRequestError",
    "KlusterContextOverflowError",
    "KlusterInternalServerError",
    "KlusterNotFoundError",
    "KlusterOutputValidationError",
    "KlusterPermissionDeniedError",
    "KlusterRateLimitError",
    "KlusterTruncatedStreamError",
    "KlusterUnsupportedParameterError",
]
