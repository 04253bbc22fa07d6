"""kluster.ai for LangChain: `ChatKluster`, a chat model, and `KlusterEmbeddings`."""

from kluster_integrations.langchain._errors import (
    KlusterAPIConnectionError,
    KlusterAPITimeoutError,
    KlusterAuthenticationError,
    KlusterBadRequestError,
    KlusterBudgetExceededError,
    KlusterContextOverflowError,
    KlusterInternalServerError,
    KlusterNotFoundError,
    KlusterOutputValidationError,
    KlusterPermissionDeniedError,
    KlusterRateLimitError,
    KlusterTruncatedStreamError,
    KlusterUnsupportedParameterError,
)
from kluster_integrations.langchain._register import register
from kluster_integrations.langchain.chat_models import ChatKluster
from kluster_integrations.langchain.embeddings import KlusterEmbeddings

__all__ = [
    "ChatKluster",
    "KlusterAPIConnectionError",
    "KlusterAPITimeoutError",
    "KlusterAuthenticationError",
    "KlusterBadRequestError",
    "KlusterBudgetExceededError",
    "KlusterContextOverflowError",
    "KlusterEmbeddings",
    "KlusterInternalServerError",
    "KlusterNotFoundError",
    "KlusterOutputValidationError",
    "KlusterPermissionDeniedError",
    "KlusterRateLimitError",
    "KlusterTruncatedStreamError",
    "KlusterUnsupportedParameterError",
    "register",
]
