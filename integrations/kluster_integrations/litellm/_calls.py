"""What LiteLLM hands a provider, read into core's terms."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import litellm
from pydantic import ValidationError

from kluster_integrations import catalog, limits
from kluster_integrations.catalog import ModelSpec
from kluster_integrations.config import KlusterConfig, environment
from kluster_integrations.core import embeddings, request
from kluster_integrations.core.transport import Transport
from kluster_integrations.core.types import ChatRequest
from kluster_integrations.errors import BadRequestError, KlusterError
from kluster_integrations.limits import Limiter, Limits
from kluster_integrations.litellm import _versions
from kluster_integrations.litellm._errors import falling_back, to_litellm
from kluster_integrations.litellm._models import PROVIDER, info

__all__ = ["Call", "Connections"]

_MAX_CONNECTIONS = 1_000

# Of LiteLLM's own, or for this package; `user` names an end user in LiteLLM's own books.
_NOT_BODY = frozenset({"stream", "stream_options", "max_retries", "extra_body", "tool_calling", "max_repairs", "user"})
_METADATA = "@kluster.ai"
_DEFAULT_TIMEOUTS = (600, 6000)
_SPENT = "_kluster_spent"
_ROUTER_AWAITS = _versions.numbers(_versions.installed() or "") >= (1, 108)  # the first chunk of an async stream


class Connections:
    """Transports by key, address and strictness, made at the first call that needs one."""

    def __init__(self, config: KlusterConfig | None, limits: Limits | None) -> None:
        self._config = config
        self._limits = limits
        self._known: dict[Any, Transport] = {}

    @contextlib.contextmanager
    def call(self, given: Mapping[str, Any]) -> Iterator[Call]:
        """Give a call, and turn what goes wrong inside into LiteLLM's errors."""
        call = Call(given)
        call.raise_if_spent()
        with call.errors():
            drop = litellm.drop_params is True or call.drops
            call.connect(self.transport(given.get("api_key"), given.get("api_base"), drop=drop))
            call.limiter = self.limiter(call.transport.config)
            yield call

    def transport(self, api_key: str | None, base_url: str | None, *, drop: bool) -> Transport:
        """Return the transport for a key and an address, None for those of the configuration.

        Raises:
            BadRequestError: If one of them is not acceptable.
        """
        known = (api_key, base_url, drop, None if self._config else environment())
        transport = self._known.get(known)
        if transport is None:
            unsupported = "drop" if drop else None
            try:
                transport = Transport(
                    KlusterConfig.merged(
                        self._config, api_key=api_key or None, base_url=base_url or None, unsupported=unsupported
                    )
                )
            except ValidationError as err:
                raise BadRequestError("; ".join(e["msg"] for e in err.errors()), hint="correct it.") from None
            if len(self._known) >= _MAX_CONNECTIONS:
                self._known.clear()
            self._known[known] = transport
        return transport

    def limiter(self, config: KlusterConfig) -> Limiter | None:
        """Return what keeps the limits of the key."""
        return limits.shared(self._limits or Limits.of(config.plan), config)


class Call:
    """One call of LiteLLM's to the provider.

    Attributes:
        model: The model's id.
        transport: The way to the server.
        limiter: What keeps the key's limits, None where there are none.
        options: The transport's options: `timeout`, `headers`, `max_retries`.
        drops: Whether parameters that kluster.ai does not take are left out.
        max_repairs: How often an answer that is not what was asked for is asked for again.
        unawaited: Whether a `Router` asks that has the stream in its hands already: nothing has come of it yet.
    """

    transport: Transport
    limiter: Limiter | None = None
    unawaited = False

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.model: str = given["model"]
        self._messages = given.get("messages") or []
        self._params: dict[str, Any] = _as_chat(given["optional_params"] or {})
        self._litellm: Mapping[str, Any] = given.get("litellm_params") or {}
        self._log = given.get("logging_obj")
        self.drops = self._litellm.get("drop_params") is True
        self.max_repairs = int(self._params.get("max_repairs", 2))
        self.options = self._options(given)
        self._address = str(given.get("api_base") or "")

    def connect(self, transport: Transport) -> None:
        """Take the way to the server."""
        self.transport = transport
        self._address = transport.config.base_url

    def _options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        options: dict[str, Any] = {}
        # Where nobody gave a timeout LiteLLM says its own default: then this package's configuration holds.
        if (timeout := given.get("timeout")) is not None and timeout not in _DEFAULT_TIMEOUTS:
            options["timeout"] = timeout
        if headers := given.get("headers"):
            options["headers"] = headers
        if (retries := self._params.get("max_retries")) is not None:
            options["max_retries"] = retries
        return options

    def request(self, *, stream: bool) -> ChatRequest:
        """Return the request.

        Raises:
            KlusterError: If it is refused here.
        """
        extra = dict(self._params.get("extra_body") or {})
        if metadata := self._metadata():
            extra["metadata"] = {**metadata, **(extra.get("metadata") or {})}
        sent = request.build(
            self.model,
            self._messages,
            {k: v for k, v in self._params.items() if k not in _NOT_BODY},
            config=self.transport.config,
            stream=stream,
            tool_calling=self._params.get("tool_calling") or "auto",
            extra_body=extra,
        )
        _add_missing(sent.spec)
        return sent

    def hand_out(self) -> None:
        """Prepare for an async stream, of which a `Router` awaits nothing before it has it in its hands.

        Since 1.108 it awaits the first chunk, but not for `responses`. The Router's tries are over then, so they are
        made by the transport; but not where the limits have a bound for waiting: who has set one wants a refusal.
        """
        names = ("metadata", "litellm_metadata")  # the latter for `responses` before 1.100
        known = [metadata for name in names if "model_group" in (metadata := self._litellm.get(name) or {})]
        metadata = known[0] if known else {}
        awaits = _ROUTER_AWAITS and getattr(self._log, "call_type", None) != "aresponses"
        self.unawaited = bool(known) and not awaits
        tries = metadata.get("max_retries")
        if self.unawaited and isinstance(tries, int) and (self.limiter is None or self.limiter.limits.max_wait is None):
            self.options["max_retries"] = tries

    def announce(self, body: Mapping[str, Any]) -> None:
        """Tell LiteLLM's log what is about to be sent; the key is not part of it."""
        if self._log is not None:
            said = {"complete_input_dict": body, "api_base": self.transport.config.base_url}
            self._log.pre_call(input=self._messages or body.get("input"), api_key="", additional_args=said)

    def embedding_bodies(self, texts: Any) -> Iterator[dict[str, Any]]:
        """Return the bodies of an embedding call.

        Raises:
            KlusterError: If it is refused here.
        """
        _add_missing(catalog.get(self.model))
        return embeddings.build(
            self.model,
            [texts] if isinstance(texts, str) else texts,
            config=self.transport.config,
            dimensions=self._params.get("dimensions"),
        )

    def _metadata(self) -> dict[str, Any]:
        """Return what of LiteLLM's metadata is for the server: the rest is for LiteLLM's own logs."""
        ours = self._litellm.get("metadata") or {}
        for metadata in (ours, ours.get("requester_metadata") or {}):  # the latter is a proxy's client's
            if _METADATA in metadata:
                return {_METADATA: metadata[_METADATA]}
        return {}

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn errors into LiteLLM's, and note them where this side has tried again in vain."""
        try:
            yield
        except KlusterError as err:
            error = to_litellm(err, self.model, self._address)
            if self.unawaited:  # not spent: of the same call the Router may ask another key
                error = falling_back(error, (self._litellm.get("model_info") or {}).get("id"))
            elif self._log is not None and self.options.get("max_retries"):
                setattr(self._log, _SPENT, (self.model, error))
            raise error from None

    def raise_if_spent(self) -> None:
        """Raise the error of this same call once more, if it has been tried again as often as the caller wished.

        LiteLLM gives `num_retries` to the provider, and when that has failed starts over, as often again, without a
        wait. It is the same call: it has the same log.
        """
        model, error = getattr(self._log, _SPENT, (None, None))
        if error is not None and model == self.model and not self.options.get("max_retries"):
            raise error


def _as_chat(params: dict[str, Any]) -> dict[str, Any]:
    """Return parameters as chat says them.

    LiteLLM hands on the number that is `text_completion`'s `logprobs`, and, where chat has `json_schema`, the
    `response_schema` beside `json_object` that its other providers take.
    """
    number = params.get("logprobs")
    if isinstance(number, int) and not isinstance(number, bool):
        params = {**params, "logprobs": True, "top_logprobs": params.get("top_logprobs", number)}
    wish = params.get("response_format")
    if isinstance(wish, Mapping) and wish.get("type") == "json_object" and "response_schema" in wish:
        schema = {"schema": wish["response_schema"]}
        params = {**params, "response_format": {"type": "json_schema", "json_schema": schema}}
    return params


def _add_missing(spec: ModelSpec) -> None:
    """Tell LiteLLM of a model that came to the catalog later, or that a reload of LiteLLM's table has swept away."""
    name = f"{PROVIDER}/{spec.id}"
    if spec.known and name not in litellm.model_cost:
        litellm.register_model({name: info(spec)})
