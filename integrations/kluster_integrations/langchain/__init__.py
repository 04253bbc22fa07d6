"""kluster.ai for LangChain: the chat model `ChatKluster`, `KlusterEmbeddings`, and reliability checks.

`VerifyMiddleware` needs the package `langchain`; `later` and `alater` need `langgraph`. Both load at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kluster_integrations._extras import needs

with needs("langchain"):
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
    from kluster_integrations.langchain._verify import Verify, reliability_evaluator
    from kluster_integrations.langchain.chat_models import ChatKluster
    from kluster_integrations.langchain.embeddings import KlusterEmbeddings

if TYPE_CHECKING:
    from kluster_integrations.langchain._graph import alater, later
    from kluster_integrations.langchain._middleware import VerifyMiddleware

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
    "Verify",
    "VerifyMiddleware",
    "alater",
    "later",
    "register",
    "reliability_evaluator",
]

_HOMES = {"VerifyMiddleware": "_middleware", "alater": "_graph", "later": "_graph"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as err:
        package = (err.name or "").partition(".")[0]
        if package not in ("langchain", "langgraph"):
            raise
        raise ModuleNotFoundError(f"{name} needs {package}: pip install {package}", name=package) from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
