"""`VerifyMiddleware` checks an agent's answers before they are returned. Needs the package `langchain`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from langchain.agents.middleware import AgentMiddleware, AgentState, hook_config
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage

from kluster_integrations.config import KlusterConfig
from kluster_integrations.langchain._verify import Checker
from kluster_integrations.verify import Verdict

__all__ = ["VerifyMiddleware"]

_OURS = {"lc_source": "verify"}  # the mark that LangChain's own middleware puts on messages that nobody wrote
_FEEDBACK = (
    "A check of your answer found this: {}\nAnswer the question again, and say only what is supported by what you know "
    "from your tools or from this conversation."
)


class VerifyMiddleware(AgentMiddleware):
    """Checks the answers of an agent, and makes it answer again if an answer is not reliable.

    ```python
    agent = create_agent(model, tools, middleware=[VerifyMiddleware(max_retries=1, context="tools")])
    ```

    The verdict is in the message's `response_metadata["verdict"]`, with `reliable` and `explanation`. Check it, because
    the last answer is returned even if it is not reliable. Messages that call tools are not checked. A
    `response_format` is such a call.

    Args:
        max_retries: How often the agent answers again. It gets the explanation each time.
        context: The text that the answer must agree with. `tools` means the results of all tools in the conversation. A
            function gets the messages and returns the text. None or "" means general knowledge.
        config: The connection; default: from the environment.

    Raises:
        ValueError: If `max_retries` is negative.
    """

    def __init__(
        self,
        *,
        max_retries: int = 1,
        context: Literal["tools"] | str | Callable[[list[AnyMessage]], str | None] | None = "tools",
        config: KlusterConfig | None = None,
    ) -> None:
        super().__init__()
        if max_retries < 0:
            raise ValueError(f"max_retries={max_retries} must be at least 0.")
        self._max_retries = max_retries
        self._context = context
        self._checker = Checker(config)

    @hook_config(can_jump_to=["model"])
    def after_model(self, state: AgentState[Any], runtime: Any) -> dict[str, Any] | None:
        """Check an answer."""
        messages = state["messages"]
        if not _is_answer(messages[-1]):
            return None
        return self._judge(messages, self._checker.check(*self._texts(messages)))

    @hook_config(can_jump_to=["model"])
    async def aafter_model(self, state: AgentState[Any], runtime: Any) -> dict[str, Any] | None:
        """As `after_model`."""
        messages = state["messages"]
        if not _is_answer(messages[-1]):
            return None
        return self._judge(messages, await self._checker.acheck(*self._texts(messages)))

    def _texts(self, messages: list[AnyMessage]) -> tuple[Any, Any, Any]:
        """Return the question, the answer and the context."""
        question = next((m for m in reversed(messages) if isinstance(m, HumanMessage) and not _is_feedback(m)), None)
        context: Any = self._context
        if context == "tools":
            context = [m for m in messages if isinstance(m, ToolMessage)]
        elif callable(context):
            context = context(messages)
        return question, messages[-1], context

    def _judge(self, messages: list[AnyMessage], verdict: Verdict) -> dict[str, Any]:
        answer = messages[-1]
        kept = {"reliable": verdict.reliable, "explanation": verdict.explanation}
        # The id stays: it takes the place of the answer.
        marked = answer.model_copy(update={"response_metadata": {**answer.response_metadata, "verdict": kept}})
        retries = 0
        for message in reversed(messages):
            if isinstance(message, HumanMessage):
                if not _is_feedback(message):
                    break
                retries += 1
        if verdict.reliable or retries >= self._max_retries:
            return {"messages": [marked]}
        feedback = HumanMessage(_FEEDBACK.format(verdict.explanation), additional_kwargs=dict(_OURS))
        return {"messages": [marked, feedback], "jump_to": "model"}


def _is_answer(message: AnyMessage) -> bool:
    return isinstance(message, AIMessage) and not message.tool_calls and bool(message.text.strip())


def _is_feedback(message: AnyMessage) -> bool:
    return message.additional_kwargs.get("lc_source") == _OURS["lc_source"]
