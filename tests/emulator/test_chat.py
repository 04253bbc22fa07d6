from __future__ import annotations

import json
import re
import time

import openai
import pytest

from kluster_integrations.emulator import ChatRequest, Emulator, Reply

from .conftest import GEMMA, LLAMA, NEMO, QWEN, R1, Api, tool, user

WEATHER = tool("get_weather", "Get the weather of a city", city={"type": "string"})
MAGISTRAL = "mistralai/Magistral-Small-2506"


def joined(chunks: list[dict], key: str = "content") -> str:
    return "".join(c["choices"][0]["delta"].get(key) or "" for c in chunks if c["choices"])


def thinks(request: ChatRequest) -> Reply:
    return Reply("Stated answer.", "The user says hello." if request.spec.reasoning else "")


def test_vllm_shape(api: Api) -> None:
    body = api.chat().json()
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{32}", body["id"])
    assert list(body) == ["id", "object", "created", "model", "choices", "usage", "prompt_logprobs"]
    assert body["prompt_logprobs"] is None
    choice = body["choices"][0]
    assert choice["message"]["tool_calls"] == []
    assert set(choice["message"]) == {"role", "content", "tool_calls"}
    assert choice["stop_reason"] is None
    assert choice["finish_reason"] == "stop"
    assert "matched_stop" not in choice
    usage = body["usage"]
    assert set(usage) == {"prompt_tokens", "completion_tokens", "total_tokens"}
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_sglang_shape(serve) -> None:
    _, api = serve(shape="sglang", engine=lambda _: "Stated answer.")
    body = api.chat().json()
    assert re.fullmatch(r"[0-9a-f]{32}", body["id"])
    assert (body["service_tier"], body["system_fingerprint"]) == (None, None)
    choice = body["choices"][0]
    assert choice["matched_stop"] == 1
    assert "stop_reason" not in choice
    message = choice["message"]
    assert all(message[key] is None for key in ("refusal", "audio", "function_call", "tool_calls"))
    assert body["usage"]["completion_tokens_details"] is None
    assert body["usage"]["prompt_tokens_details"] is None
    assert "prompt_logprobs" not in body
    cut = api.choice(stop=["answer"])
    assert (cut["matched_stop"], cut["message"]["content"]) == ("answer", "Stated ")
    assert api.choice(max_completion_tokens=1)["matched_stop"] is None
    last = api.chunks()[-1]["choices"][0]
    assert (last["finish_reason"], last["matched_stop"]) == ("stop", 1)


@pytest.mark.parametrize("shape", ["vllm", "sglang"])
def test_stream_says_the_same_as_the_whole(serve, shape: str) -> None:
    _, api = serve(shape=shape, usage_in_stream=True)
    ask = user("Tell me about 東京 and naïve cafés 🙂, please.\nSecond line.")
    whole = api.chat(ask).json()
    chunks = api.chunks(ask)
    assert joined(chunks) == whole["choices"][0]["message"]["content"]
    assert "東京" in joined(chunks)
    assert "🙂" in joined(chunks)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    reasons = [c["choices"][0]["finish_reason"] for c in chunks[:-1]]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    assert len({c["id"] for c in chunks}) == 1
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}
    # The role, each token, the finish, the usage.
    assert len(chunks) == whole["usage"]["completion_tokens"] + 3


def test_stream_has_no_usage_by_default(api: Api) -> None:
    assert not any(chunk.get("usage") for chunk in api.chunks())
    assert all(chunk["choices"] for chunk in api.chunks())


def test_stop_and_length(serve) -> None:
    _, api = serve(engine=lambda _: "Say Hello to all that I see.")
    whole = api.text()
    choice = api.choice(stop=["see", "Hello"])
    assert choice["message"]["content"] == whole[: whole.index("Hello")]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "Hello")
    body = api.chat(max_completion_tokens=4).json()
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 4
    assert joined(api.chunks(max_completion_tokens=4)) == body["choices"][0]["message"]["content"]
    assert api.chunks(stop="Hello")[-1]["choices"][0]["stop_reason"] == "Hello"
    exact = api.chat().json()["usage"]["completion_tokens"]
    assert api.choice(max_completion_tokens=exact)["finish_reason"] == "stop"


def test_logprobs(api: Api) -> None:
    choice = api.choice(logprobs=True, top_logprobs=3)
    rows = choice["logprobs"]["content"]
    assert "".join(row["token"] for row in rows) == choice["message"]["content"]
    assert all(row["logprob"] <= 0 and len(row["top_logprobs"]) == 3 for row in rows)
    assert bytes(rows[0]["bytes"]).decode() == rows[0]["token"]
    streamed = [c["choices"][0]["logprobs"] for c in api.chunks(logprobs=True, top_logprobs=3)]
    assert [row for part in streamed if part for row in part["content"]] == rows
    assert api.choice(logprobs=True)["logprobs"]["content"][0]["top_logprobs"] == []
    assert api.choice()["logprobs"] is None


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_in_a_field(serve, field: str) -> None:
    _, api = serve(reasoning=field, engine=thinks)
    message = api.choice(model=R1)["message"]
    assert message[field] == "The user says hello."
    assert message["content"] == "Stated answer."
    chunks = api.chunks(model=R1)
    assert joined(chunks, field) == message[field]
    assert joined(chunks) == message["content"]
    assert {"reasoning_content", "reasoning"} & set(api.choice(model=LLAMA)["message"]) == set()
    cut = api.choice(model=R1, max_completion_tokens=2)["message"]
    assert (cut["content"], cut[field]) == (None, "The user")


def test_reasoning_inline(serve) -> None:
    _, api = serve(reasoning="think", engine=thinks)
    content = api.text(model=R1)
    assert content == "<think>\nThe user says hello.\n</think>\n\nStated answer."
    chunks = api.chunks(model=R1)
    assert joined(chunks) == content
    parts = [c["choices"][0]["delta"].get("content") for c in chunks]
    assert not any(part and ("<think>" in part or "</think>" in part) for part in parts)
    assert api.text(model=R1, max_completion_tokens=2) == "<think>\nThe user"
    assert "think>" not in api.text(model=LLAMA)


def test_reasoning_open(serve) -> None:
    _, api = serve(reasoning="open", engine=thinks)
    content = api.text(model=R1)
    assert content.startswith("The user says")
    assert content.count("</think>") == 1
    assert "<think>" not in content
    assert joined(api.chunks(model=R1)) == content
    assert api.text(model=MAGISTRAL).startswith("<think>\n")


def test_reasoning_counts_in_usage(serve) -> None:
    _, api = serve(usage_in_stream=True)
    usage = api.chat(model=R1).json()["usage"]
    assert usage["completion_tokens"] > api.chat(model=LLAMA).json()["usage"]["completion_tokens"]
    assert api.chunks(model=R1)[-1]["usage"] == usage


@pytest.mark.parametrize("shape", ["vllm", "sglang"])
def test_tool_calls_whole_and_streamed(serve, shape: str) -> None:
    server, api = serve(shape=shape)
    cities = {"get_weather": "Zürich", "get_time": "Tokyo"}
    server.reply(tool_calls=[{"name": n, "arguments": {"city": city}} for n, city in cities.items()], times=2)
    clock = tool("get_time", "Get the local time", city={"type": "string"})
    ask = user("What is the weather in Zürich and the time in Tokyo?")
    choice = api.choice(ask, tools=[WEATHER, clock])
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    calls = choice["message"]["tool_calls"]
    assert all(re.fullmatch(r"chatcmpl-tool-[0-9a-f]{32}", call["id"]) for call in calls)
    assert [call["function"]["arguments"] for call in calls] == ['{"city": "Zürich"}', '{"city": "Tokyo"}']
    deltas = [
        call
        for chunk in api.chunks(ask, tools=[WEATHER, clock])
        for call in chunk["choices"][0]["delta"].get("tool_calls") or []
    ]
    heads = [delta for delta in deltas if "id" in delta]
    assert [(d["index"], d["type"], d["function"]["name"], d["function"]["arguments"]) for d in heads] == [
        (0, "function", "get_weather", ""),
        (1, "function", "get_time", ""),
    ]
    for index, call in enumerate(calls):
        parts = [d["function"]["arguments"] for d in deltas if d["index"] == index]
        assert len(parts) > 3
        assert "".join(parts) == call["function"]["arguments"]


def test_thinking_comes_before_tool_calls(serve) -> None:
    _, api = serve(reasoning="think")
    message = api.choice(user("Weather in Paris?"), model=QWEN, tools=[WEATHER])["message"]
    assert message["content"].endswith("</think>\n\n")
    assert message["tool_calls"][0]["function"]["name"] == "get_weather"


def test_delay_is_between_chunks(serve) -> None:
    _, api = serve(delay=0.02, engine=lambda _: "An answer of more than five tokens.")
    body = {"model": LLAMA, "messages": user("Hi"), "stream": True, "max_completion_tokens": 5}
    with api.http.stream("POST", "/chat/completions", json=body) as answer:
        times = [time.perf_counter() for line in answer.iter_lines() if line]
    assert len(times) == 8
    assert times[-1] - times[0] >= 0.02 * 6


def test_lone_surrogates_do_not_break_the_answer(api: Api) -> None:
    body = json.dumps({"model": LLAMA, "messages": user("half \ud83d pair")})
    assert api.http.post("/chat/completions", content=body).status_code == 200
    bad = json.dumps({"model": "\ud83d", "messages": user("x")})
    assert api.http.post("/chat/completions", content=bad).status_code == 404


def test_answers_are_deterministic(api: Api) -> None:
    assert api.text(user("Why is the sky blue?"), seed=1) == api.text(user("Why is the sky blue?"), seed=2)


def test_models(api: Api) -> None:
    plain = api.http.get("/models").json()
    assert plain["object"] == "list"
    assert set(plain["data"][0]) == {"id", "object", "created", "owned_by"}
    rows = {row["id"]: row for row in api.http.get("/models?extended=true").json()["data"]}
    assert rows[GEMMA]["model_purpose"] == "multimodal"
    assert rows[GEMMA]["tags"] == ["vision"]
    assert rows[LLAMA]["tools_supported"] is True
    assert rows[NEMO]["tools_supported"] is False
    assert (rows[GEMMA]["context_length"], rows[GEMMA]["output_length"]) == (65_536, 8_192)
    assert rows["BAAI/bge-m3"]["model_purpose"] == "embeddings"
    assert rows[LLAMA]["limits"] == {"concurrent_requests": 100}
    assert api.http.get(f"/models/{LLAMA}").json()["id"] == LLAMA
    assert api.http.get("/models/no/such").status_code == 404


async def test_openai_sdk_sync_and_async() -> None:
    with Emulator(engine=thinks) as server:
        with openai.OpenAI(base_url=server.base_url, api_key="k") as client:
            stream = client.chat.completions.create(model=LLAMA, messages=user("Hello"), stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            assert text == "Stated answer."
            assert len(client.models.list().data) > 10
            vector = client.embeddings.create(model="BAAI/bge-m3", input=["x"]).data[0].embedding
            assert len(vector) == 1024
            with pytest.raises(openai.BadRequestError, match="Unsupported parameter: 'n'") as caught:
                client.chat.completions.create(model=LLAMA, messages=user("Hello"), n=2)
            assert caught.value.param == "n"
            with pytest.raises(openai.NotFoundError):
                client.chat.completions.create(model="no/such", messages=user("Hello"))
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="k") as client:
            server.reply(tool_calls=[{"name": "get_weather", "arguments": {"city": "Paris"}}])
            answer = await client.chat.completions.create(
                model=LLAMA, messages=user("Weather in Paris?"), tools=[WEATHER]
            )
            call = answer.choices[0].message.tool_calls[0]
            assert json.loads(call.function.arguments) == {"city": "Paris"}
            stream = await client.chat.completions.create(model=R1, messages=user("Hello"), stream=True)
            thoughts = [getattr(c.choices[0].delta, "reasoning_content", None) or "" async for c in stream]
            assert "".join(thoughts) == "The user says hello."
