"""Reliability checks: a Runnable, an evaluator, and a middleware that has an agent answer again."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import openai
import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ToolStrategy
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langgraph.checkpoint.memory import InMemorySaver
from langsmith import Client as LangSmith
from langsmith import evaluate
from langsmith.schemas import Example
from pydantic import BaseModel

from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.langchain import Verify, VerifyMiddleware, reliability_evaluator
from kluster_integrations.verify import Verdict

from ..raw_server import RawRequest, RawServer, Reply, whole
from .conftest import KEY, get_weather, model_of

QUESTION = "What is the capital of France?"
RIGHT, WRONG = "The capital of France is Paris.", "It is Lyon."
WHY = "Lyon is not in it."


def connection(server: Emulator | RawServer) -> KlusterConfig:
    return KlusterConfig(api_key=KEY, base_url=server.base_url, max_retries=0)


@pytest.fixture
def checked(emulator: Emulator) -> KlusterConfig:
    """The way to a service that objects to the wrong answer, and to no other."""
    emulator.reply(json={"is_hallucination": True, "explanation": WHY}, when=WRONG)
    return connection(emulator)


# The Runnable.


@pytest.mark.parametrize("output", [WRONG, AIMessage(WRONG), AIMessage([{"type": "text", "text": WRONG}])])
async def test_an_answer(checked: KlusterConfig, output: Any) -> None:
    verify = Verify(prompt=QUESTION, context=RIGHT, config=checked)
    verdict = verify.invoke(output)
    assert isinstance(verdict, Verdict)
    assert not verdict.reliable
    assert verdict.explanation == WHY
    assert await verify.ainvoke(output) == verdict
    assert verify.batch([output, RIGHT]) == [verdict, verify.invoke(RIGHT)]


@pytest.mark.parametrize(
    ("context", "sent"),
    [
        (RIGHT, RIGHT),
        ([Document(RIGHT), Document("Bees dance.")], f"{RIGHT}\n\nBees dance."),
        ([ToolMessage(RIGHT, tool_call_id="1")], RIGHT),
        ([], None),
        (None, None),
    ],
    ids=["text", "documents", "messages", "nothing found", "none"],
)
def test_what_is_sent(emulator: Emulator, context: Any, sent: str | None) -> None:
    verify = Verify(context="overridden", search=True, config=connection(emulator))
    verify.invoke({"prompt": HumanMessage(QUESTION), "output": RIGHT, "context": context, "score": 0.3})
    [request] = emulator.requests
    expected = {"prompt": QUESTION, "output": RIGHT, "return_search_results": True}
    assert request.body == (expected if sent is None else {**expected, "context": sent})


def test_in_a_chain(emulator: Emulator) -> None:
    prompt = ChatPromptTemplate([("user", "Answer from this: {context}\n\n{prompt}")])
    answer = prompt | model_of(emulator) | StrOutputParser()
    chain = RunnablePassthrough.assign(output=answer).assign(verdict=Verify(config=connection(emulator)))
    result = chain.invoke({"prompt": QUESTION, "context": [Document(RIGHT)]})
    assert set(result) == {"prompt", "context", "output", "verdict"}
    assert isinstance(result["verdict"], Verdict)
    check = emulator.requests[1].body
    assert (check["output"], check["context"]) == (result["output"], RIGHT)
    assert [request.path for request in emulator.requests] == ["/v1/chat/completions", "/v1/verify/reliability"]


def test_errors_are_langchains(emulator: Emulator, checked: KlusterConfig) -> None:
    with pytest.raises(openai.BadRequestError, match="prompt=None"):
        Verify(config=checked).invoke(RIGHT)
    with pytest.raises(openai.BadRequestError, match="output=None"):
        Verify(config=checked).invoke({"prompt": QUESTION})
    emulator.add_fault(Fault("status", status=429, path="/v1/verify/reliability"))
    with pytest.raises(openai.RateLimitError):
        Verify(prompt=QUESTION, config=checked).invoke(RIGHT)


# The evaluator.


@pytest.mark.parametrize(
    ("inputs", "outputs", "reference"),
    [
        ({"question": QUESTION}, {"output": WRONG, "context": RIGHT}, None),
        ({"q": QUESTION, "context": RIGHT}, {"text": WRONG}, {}),
        ({"prompt": QUESTION, "user": "ada"}, {"answer": AIMessage(WRONG), "took": 3}, {"answer": RIGHT}),
    ],
    ids=["context of the target", "context of the example", "reference"],
)
def test_an_evaluation(checked: KlusterConfig, inputs: Any, outputs: Any, reference: Any) -> None:
    result = reliability_evaluator(config=checked)(inputs, outputs, reference)
    assert (result["key"], result["score"]) == ("reliability", 0)
    assert result["comment"] == WHY


def test_own_keys(emulator: Emulator, checked: KlusterConfig) -> None:
    evaluator = reliability_evaluator(prompt_key="q", output_key="a", context_key="c", config=checked)
    assert evaluator({"q": QUESTION, "prompt": "?"}, {"a": RIGHT, "output": WRONG, "c": RIGHT})["score"] == 1
    sent = {"prompt": QUESTION, "output": RIGHT, "context": RIGHT, "return_search_results": False}
    assert emulator.requests[0].body == sent


@pytest.mark.filterwarnings("ignore:'upload_results'")
def test_langsmith_runs_it(checked: KlusterConfig) -> None:
    import uuid

    examples = [
        Example(id=uuid.uuid4(), dataset_id=uuid.uuid4(), inputs={"question": QUESTION}, outputs={"answer": RIGHT})
    ]
    results = evaluate(
        lambda inputs: {"output": WRONG},
        data=examples,
        evaluators=[reliability_evaluator(config=checked)],
        upload_results=False,
        client=LangSmith(api_url="http://127.0.0.1:9", api_key="none", auto_batch_tracing=False),
    )
    [row] = results
    [result] = row["evaluation_results"]["results"]
    assert (result.key, result.score) == ("reliability", 0)


# The middleware.


class Model:
    """Answers with one text after the other, and says of one that it is a hallucination."""

    def __init__(self, server: RawServer, *answers: str | Reply) -> None:
        self.answers = [whole({"content": a}) if isinstance(a, str) else a for a in answers]
        self.verified: list[dict[str, Any]] = []
        self.asked: list[list[dict[str, Any]]] = []
        server.answer = self._answer

    def _answer(self, request: RawRequest) -> Reply:
        if request.path.endswith("/verify/reliability"):
            self.verified.append(request.json)
            verdict = {"is_hallucination": WRONG in request.json["output"], "explanation": WHY}
            return Reply([json.dumps(verdict).encode()], content_type="application/json", framing="length")
        self.asked.append(request.json["messages"])
        return self.answers.pop(0)


def agent_of(server: Emulator | RawServer, tools: Any = (), **options: Any) -> Any:
    checkpointer = options.pop("checkpointer", None)
    middleware: Any = [VerifyMiddleware(config=connection(server), **options)]
    return create_agent(model_of(server), list(tools), middleware=middleware, checkpointer=checkpointer)


def ask(text: str = QUESTION) -> Any:
    return {"messages": [HumanMessage(text)]}


async def run(agent: Any, is_async: bool, state: Any, config: Any = None) -> list[Any]:
    found = await agent.ainvoke(state, config) if is_async else agent.invoke(state, config)
    messages: list[Any] = found["messages"]
    return messages


both_ways = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@both_ways
async def test_a_reliable_answer(server: RawServer, is_async: bool) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    model = Model(server, whole({"content": None, "tool_calls": [call]}, finish="tool_calls"), "It is sunny.")
    messages = await run(agent_of(server, [get_weather]), is_async, ask("What is the weather in Paris?"))
    assert [m.type for m in messages] == ["human", "ai", "tool", "ai"]
    assert messages[-1].response_metadata["verdict"]["reliable"] is True
    assert messages[-1].response_metadata["finish_reason"] == "stop"
    assert model.verified == [
        {
            "prompt": "What is the weather in Paris?",
            "output": "It is sunny.",
            "context": "Sunny in Paris",
            "return_search_results": False,
        }
    ]


@both_ways
async def test_an_unreliable_answer_is_given_again(server: RawServer, is_async: bool) -> None:
    model = Model(server, WRONG, RIGHT)
    messages = await run(agent_of(server), is_async, ask())
    assert [m.text for m in messages if m.type == "ai"] == [WRONG, RIGHT]
    assert [m.response_metadata["verdict"]["reliable"] for m in messages if m.type == "ai"] == [False, True]
    assert [check["prompt"] for check in model.verified] == [QUESTION, QUESTION]
    assert [m["role"] for m in model.asked[1]] == ["user", "assistant", "user"]
    assert "Lyon is not in it." in model.asked[1][-1]["content"]


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_as_often_as_is_allowed(server: RawServer, retries: int) -> None:
    model = Model(server, *[WRONG] * 5)
    messages = agent_of(server, max_retries=retries).invoke(ask())["messages"]
    assert len(model.asked) == len(model.verified) == 1 + retries
    assert messages[-1].type == "ai"
    assert messages[-1].response_metadata["verdict"] == {"reliable": False, "explanation": WHY}


def test_each_question_has_its_own_retries(server: RawServer) -> None:
    model = Model(server, WRONG, RIGHT, WRONG, RIGHT)
    agent = agent_of(server, checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}
    agent.invoke(ask(), thread)
    messages = agent.invoke(ask("And is it really so?"), thread)["messages"]
    assert [m.text for m in messages if m.type == "ai"] == [WRONG, RIGHT, WRONG, RIGHT]
    assert [check["prompt"] for check in model.verified[2:]] == ["And is it really so?"] * 2


@pytest.mark.parametrize(
    ("context", "sent"),
    [("tools", None), (None, None), (RIGHT, RIGHT), (lambda messages: f"{len(messages)} messages", "2 messages")],
    ids=["no tools", "none", "text", "function"],
)
def test_contexts(server: RawServer, context: Any, sent: str | None) -> None:
    model = Model(server, RIGHT)
    agent_of(server, context=context).invoke(ask())
    assert model.verified[0].get("context") == sent


def test_a_structured_response_is_not_checked(server: RawServer) -> None:
    class City(BaseModel):
        """A city."""

        name: str

    call = {"id": "1", "type": "function", "function": {"name": "City", "arguments": '{"name": "Paris"}'}}
    model = Model(server, whole({"content": None, "tool_calls": [call]}, finish="tool_calls"))
    middleware: Any = [VerifyMiddleware(config=connection(server))]
    agent = create_agent(model_of(server), [], middleware=middleware, response_format=ToolStrategy(City))
    assert agent.invoke(ask())["structured_response"] == City(name="Paris")
    assert model.verified == []


def test_an_empty_answer_is_not_checked(server: RawServer) -> None:
    model = Model(server, "")
    agent_of(server).invoke(ask())
    assert model.verified == []


def test_a_failing_check_ends_the_agent(emulator: Emulator) -> None:
    emulator.add_fault(Fault("status", status=401, path="/v1/verify/reliability"))
    with pytest.raises(openai.AuthenticationError):
        agent_of(emulator).invoke(ask())


def test_negative_retries() -> None:
    with pytest.raises(ValueError, match="max_retries=-1"):
        VerifyMiddleware(max_retries=-1)


def test_langchain_and_langgraph_load_when_they_are_needed() -> None:
    code = (
        "import sys; import kluster_integrations.langchain as k; k.Verify; k.reliability_evaluator; dir(k);"
        "assert not {'langchain', 'langgraph'} & set(sys.modules);"
        "sys.modules['langchain'] = None; sys.modules['langgraph'] = None\n"
        "for name in ('VerifyMiddleware', 'later', 'alater'):\n"
        "    try: getattr(k, name)\n"
        "    except ModuleNotFoundError as err: print(err)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "VerifyMiddleware needs langchain: pip install langchain" in done.stdout
    assert "later needs langgraph: pip install langgraph" in done.stdout
