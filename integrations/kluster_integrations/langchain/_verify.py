"""Reliability checks for LangChain: `Verify`, a Runnable, and `reliability_evaluator`, for LangSmith."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableLambda

from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.client import Client
from kluster_integrations.langchain._errors import LANGCHAIN_ERRORS
from kluster_integrations.verify import Verdict, Verifier

__all__ = ["Checker", "Verify", "reliability_evaluator"]


class Checker:
    """A `Verifier` that takes LangChain's objects and raises this adapter's errors."""

    def __init__(self, config: KlusterConfig | None) -> None:
        config = KlusterConfig.of(config)
        self._verifier = Verifier(config)
        self._errors = Client(config, adapt=LANGCHAIN_ERRORS).errors

    def check(self, prompt: Any, output: Any, context: Any, *, search: bool = False) -> Verdict:
        """As `Verifier.check`; a text may be a message or a document, or a list of them."""
        with self._errors:
            return self._verifier.check(_text(prompt), _text(output), _text(context) or None, search=search)

    async def acheck(self, prompt: Any, output: Any, context: Any, *, search: bool = False) -> Verdict:
        """As `check`."""
        with self._errors:
            return await self._verifier.acheck(_text(prompt), _text(output), _text(context) or None, search=search)


def _text(value: Any) -> Any:
    """Return the text of a value; a value without text stays as it is, and the `Verifier` refuses it by name."""
    if isinstance(value, BaseMessage):
        return value.text
    if isinstance(value, Document):
        return value.page_content
    if isinstance(value, (list, tuple)):
        return "\n\n".join(str(_text(one)) for one in value)
    return value


class Verify(RunnableLambda[Any, Verdict]):
    """A Runnable that says whether an answer is reliable.

    The input is an answer (a text or a message), or a mapping with `output` and optionally `prompt` and `context`,
    which win over the arguments here. Each may be a text, a message, a document, or a list of them. After a retrieval
    chain, `RunnablePassthrough.assign(verdict=Verify())` adds the verdict to the answer.

    ```python
    Verify().invoke({"prompt": "What is the capital of France?", "output": "It is Lyon.", "context": documents})
    Verify(prompt="What is the capital of France?").invoke(model.invoke("What is the capital of France?")).reliable
    ```

    Args:
        prompt: The question.
        context: The text that answers must agree with. None, or an empty list: general knowledge.
        search: Whether the verdict includes what the service found on the web.
        config: The connection; default: from the environment.

    Raises:
        KlusterError: From a call, whatever goes wrong.
    """

    def __init__(
        self,
        *,
        prompt: str | None = None,
        context: Any = None,
        search: bool = False,
        config: KlusterConfig | None = None,
    ) -> None:
        super().__init__(self._check, self._acheck, name="Verify")
        self._defaults = {"prompt": prompt, "context": context}
        self._search = search
        self._checker = Checker(config)

    def _check(self, input: Any) -> Verdict:
        return self._checker.check(**self._texts(input), search=self._search)

    async def _acheck(self, input: Any) -> Verdict:
        return await self._checker.acheck(**self._texts(input), search=self._search)

    def _texts(self, input: Any) -> dict[str, Any]:
        given = input if isinstance(input, Mapping) else {"output": input}
        return {"output": None, **self._defaults} | {name: given[name] for name in _NAMES if name in given}


_NAMES = ("prompt", "output", "context")


def reliability_evaluator(
    *,
    prompt_key: str | None = None,
    output_key: str | None = None,
    context_key: str = "context",
    config: KlusterConfig | None = None,
) -> Callable[..., dict[str, Any]]:
    """Return an evaluator for LangSmith's `evaluate`: the score `reliability`, 1 or 0, with the explanation as comment.

    An answer must agree with the context in the target's outputs or the example's inputs, else with the example's
    reference answer, else with general knowledge.

    Args:
        prompt_key: The key of the question in an example's inputs. Default: `prompt`, `question` or `input`, or the
            only key.
        output_key: The key of the answer in the target's outputs. Default: `output` or `answer`, or the only key.
        context_key: The key of the context in outputs or inputs.
        config: The connection; default: from the environment.
    """
    checker = Checker(config)

    def reliability(
        inputs: Mapping[str, Any], outputs: Mapping[str, Any], reference_outputs: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        context = outputs.get(context_key, inputs.get(context_key))
        if context is None and reference_outputs:
            context = _pick(reference_outputs, output_key, ("output", "answer"), context_key)
        prompt = _pick(inputs, prompt_key, ("prompt", "question", "input"), context_key)
        verdict = checker.check(prompt, _pick(outputs, output_key, ("output", "answer"), context_key), context)
        return {"key": "reliability", "score": int(verdict.reliable), "comment": verdict.explanation}

    return reliability


def _pick(values: Mapping[str, Any], key: str | None, usual: tuple[str, ...], context_key: str) -> Any:
    if key is not None:
        return values.get(key)
    others = {name: value for name, value in values.items() if name != context_key}
    if len(others) == 1:
        return next(iter(others.values()))
    return next((others[name] for name in usual if name in others), None)
