"""Converts the arguments of LiteLLM's calls into the core's requests."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import litellm
from pydantic import ValidationError

from kluster_integrations import catalog
from kluster_integrations.catalog import ModelSpec
from kluster_integrations.config import KlusterConfig, environment
from kluster_integrations.core.client import Client
from kluster_integrations.core.types import ChatRequest
from kluster_integrations.errors import BadRequestError, KlusterError
from kluster_integrations.limits import Limits
from kluster_integrations.litellm import _sessions
from kluster_integrations.litellm._compat import EMBEDDING_ARGUMENTS
from kluster_integrations.litellm._errors import to_litellm
from kluster_integrations.litellm._models import PROVIDER, info

__all__ = ["Call", "Connections", "merged"]

_MAX_CLIENTS = 1_000

# Of LiteLLM's own, or for this package; `user` names an end user in LiteLLM's own books.
_NOT_BODY = frozenset({"stream", "stream_options", "extra_body", "tool_calling", "max_repairs", "user"})
_SENDING = ("max_retries", "total_timeout")  # the transport's
_METADATA = "@kluster.ai"
_DEFAULT_TIMEOUTS = (600, 6000)
_FAILURE = "_kluster_failure"


class Connections:
    """Clients by key, address, strictness and environment, made at the first call that needs one.

    A client that is removed from the table is not closed: its connections belong to the address, and other clients of
    the process may use them.
    """

    def __init__(self, config: KlusterConfig | None, limits: Limits | None) -> None:
        Limits.check(limits)  # here, and not at the first call
        self._config = config
        self._limits = limits
        self._client = functools.lru_cache(_MAX_CLIENTS)(self._make)

    def client(self, api_key: str | None, base_url: str | None, *, drop: bool) -> Client:
        """Return the client for a key and an address; None means those of the configuration.

        Raises:
            BadRequestError: If one of them is not acceptable.
        """
        return self._client(api_key, base_url, drop, _sessions.settings(), environment())

    def _make(
        self, api_key: str | None, base_url: str | None, drop: bool, settings: _sessions.Settings, _: object
    ) -> Client:
        arguments = {"api_key": api_key or None, "base_url": base_url or None, "unsupported": "drop" if drop else None}
        return Client(merged(self._config, **arguments), limits=self._limits, **settings.clients())


def merged(config: KlusterConfig | None, **arguments: Any) -> KlusterConfig:
    """Return a configuration with the arguments of a call.

    Raises:
        BadRequestError: If one of them is not acceptable.
    """
    try:
        return KlusterConfig.merged(config, **arguments)
    except ValidationError as err:
        message = "; ".join(e["msg"] for e in err.errors())
        names = ", ".join(["api_key", "api_base", *sorted({*arguments} & {"timeout", "max_retries"})])
        raise BadRequestError(message, hint=f"check {names} and KLUSTER_…: `kluster doctor`.") from None


class Call:
    """A call from LiteLLM to the provider. As a context manager it turns the core's errors into this adapter's.

    Args:
        kwargs: The arguments that LiteLLM passes to its handlers.
        connections: The clients.

    Attributes:
        model: The model's id.
        client: The client that sends the requests.
        merges_reasoning: Whether the text of a stream includes the reasoning, as `<think>…</think>`.

    Raises:
        KlusterError: The key or the address is not acceptable, or the same call has already failed after its retries.
    """

    def __init__(self, kwargs: Mapping[str, Any], connections: Connections) -> None:
        self.model: str = kwargs["model"]
        self._messages: Any = [] if kwargs.get("messages") is None else kwargs["messages"]
        self._params = _as_chat(kwargs["optional_params"] or {})
        self._litellm: Mapping[str, Any] = kwargs.get("litellm_params") or {}
        self._log = kwargs.get("logging_obj")
        self.merges_reasoning = self._litellm.get("merge_reasoning_content_in_choices") is True
        self._address = str(kwargs.get("api_base") or "")
        self._options: dict[str, Any] = {}
        # Where nobody set a timeout LiteLLM passes its own default: then this package's configuration holds.
        if (timeout := kwargs.get("timeout")) is not None and timeout not in _DEFAULT_TIMEOUTS:
            self._options["timeout"] = timeout
        self._embedding: Mapping[str, Any] = self._params.pop(EMBEDDING_ARGUMENTS, {})
        if headers := kwargs.get("headers") or self._embedding.get("headers"):
            self._options["headers"] = headers
        self._options |= {name: self._params[name] for name in _SENDING if self._params.get(name) is not None}
        self._reraise_after_own_retries()
        with self:
            drop = litellm.drop_params is True or self._litellm.get("drop_params") is True
            self.client = connections.client(kwargs.get("api_key"), kwargs.get("api_base"), drop=drop)
            self._address = self.client.config.base_url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, _: TracebackType | None) -> None:
        if not isinstance(err, KlusterError):
            return
        error = to_litellm(err, self.model, self._address)
        if self._log is not None and self._options.get("max_retries"):
            setattr(self._log, _FAILURE, (self.model, error))
        raise error from None

    def _reraise_after_own_retries(self) -> None:
        """If this call has already failed after `num_retries` retries, raise its error again.

        LiteLLM passes `num_retries` to the provider. After the provider's error it repeats the call as often again,
        without waiting. Such a call has the same log object.
        """
        model, error = getattr(self._log, _FAILURE, (None, None))
        if error is not None and model == self.model and not self._options.get("max_retries"):
            raise error

    @property
    def spec(self) -> ModelSpec:
        """The spec of the requested id, from the connection's own catalog."""
        return catalog.get(self.model, config=self.client.config)

    def build(self, *, stream: bool = False, several: bool = False) -> ChatRequest:
        """Return the chat request, and report it to LiteLLM's log.

        Raises:
            KlusterError: If the request is refused before it is sent.
        """
        extra = self._params.get("extra_body")
        if (metadata := self._metadata()) and isinstance(extra, Mapping | None):
            extra = extra or {}
            own = extra.get("metadata")
            extra = {**extra, "metadata": {**metadata, **own} if isinstance(own, Mapping) else own or metadata}
        request = self.client.build(
            self.model,
            self._messages,
            {k: v for k, v in self._params.items() if k not in _NOT_BODY and k not in _SENDING},
            stream=stream,
            tool_calling=self._params.get("tool_calling") or "auto",
            extra_body=extra,
            max_repairs=2 if (repairs := self._params.get("max_repairs")) is None else repairs,
            options=self._options,
            several=several,
        )
        _add_missing(request.spec)
        self._announce(request.body)
        return request

    def embedding(self, texts: Any) -> dict[str, Any]:
        """Return the arguments of `Client.embed` for one or several texts, and report them to LiteLLM's log."""
        _add_missing(self.client.spec(self.model))
        self._announce({"model": self.model, "input": texts})
        texts = [texts] if isinstance(texts, str) else texts
        return {"model": self.model, "texts": texts, "dimensions": self._embedding.get("dimensions"), **self._options}

    def _announce(self, body: Mapping[str, Any]) -> None:
        """Report to LiteLLM's log what will be sent, without the key."""
        if self._log is not None:
            details = {"complete_input_dict": body, "api_base": self._address}
            self._log.pre_call(input=self._messages or body.get("input"), api_key="", additional_args=details)

    def _metadata(self) -> dict[str, Any]:
        """Return the part of LiteLLM's metadata that is for the server; the rest is for LiteLLM's own logs."""
        ours = self._litellm.get("metadata") or {}
        for metadata in (ours, ours.get("requester_metadata") or {}):  # the latter is that of a proxy's client
            if _METADATA in metadata:
                return {_METADATA: metadata[_METADATA]}
        return {}


def _as_chat(params: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of the parameters in the form of the chat API.

    LiteLLM passes on two other forms: the `logprobs` of `text_completion`, which is a number, and a `response_schema`
    beside `json_object` in place of `json_schema`.
    """
    params = dict(params)
    number = params.get("logprobs")
    if isinstance(number, int) and not isinstance(number, bool):
        params |= {"logprobs": True, "top_logprobs": params.get("top_logprobs", number)}
    form = params.get("response_format")
    if isinstance(form, Mapping) and form.get("type") == "json_object" and "response_schema" in form:
        schema = {"schema": form["response_schema"]}
        params["response_format"] = {"type": "json_schema", "json_schema": schema}
    return params


def _add_missing(spec: ModelSpec) -> None:
    """Add a model to LiteLLM's table that came to the catalog later, or that LiteLLM's reload has removed."""
    name = f"{PROVIDER}/{spec.id}"
    if spec.known and name not in litellm.model_cost:
        litellm.register_model({name: info(spec)})
