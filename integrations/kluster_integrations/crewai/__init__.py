"""kluster.ai for CrewAI: `kluster_llm` for agents and crews, `kluster_embedder` for memory and knowledge."""

from kluster_integrations._extras import needs

with needs("crewai"):
    from kluster_integrations.crewai._errors import (
        KlusterAPIConnectionError,
        KlusterAPITimeoutError,
        KlusterAuthenticationError,
        KlusterBadRequestError,
        KlusterBudgetExceededError,
        KlusterContextWindowError,
        KlusterInternalServerError,
        KlusterNotFoundError,
        KlusterPermissionDeniedError,
        KlusterRateLimitError,
        KlusterUnsupportedParameterError,
    )
    from kluster_integrations.crewai.converter import KlusterConverter
    from kluster_integrations.crewai.embedder import KlusterEmbedder, kluster_embedder
    from kluster_integrations.crewai.guardrail import verify_guardrail
    from kluster_integrations.crewai.llm import KlusterLLM, kluster_llm

__all__ = [
    "KlusterAPIConnectionError",
    "KlusterAPITimeoutError",
    "KlusterAuthenticationError",
    "KlusterBadRequestError",
    "KlusterBudgetExceededError",
    "KlusterContextWindowError",
    "KlusterConverter",
    "KlusterEmbedder",
    "KlusterInternalServerError",
    "KlusterLLM",
    "KlusterNotFoundError",
    "KlusterPermissionDeniedError",
    "KlusterRateLimitError",
    "KlusterUnsupportedParameterError",
    "kluster_embedder",
    "kluster_llm",
    "verify_guardrail",
]
