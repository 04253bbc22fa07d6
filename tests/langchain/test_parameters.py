"""`ChatKluster`'s parameters: what each is on the wire, and which are refused."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from kluster_integrations.emulator import Emulator
from kluster_integrations.errors import BadRequestError, UnsupportedParameterError

from ..raw_server import RawServer, Reply, sse, whole
from .conftest import GEMMA, Ask, body, model_of

FIELDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"temperature": 0}, {"temperature": 0}),
    ({"temperature": 0.0}, {"temperature": 0.0}),
    ({"top_p": 0.5}, {"top_p": 0.5}),
    ({"frequency_penalty": -1.5}, {"frequency_penalty": -1.5}),
    ({"presence_penalty": 2}, {"presence_penalty": 2}),
    ({"logit_bias": {"5": -100}}, {"logit_bias": {"5": -100}}),
    ({"seed": 0}, {"seed": 0}),
    ({"logprobs": True, "top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
    ({"max_tokens": 9}, {"max_completion_tokens": 9}),
    ({"max_completion_tokens": 9}, {"max_completion_tokens": 9}),
    ({"stop": "x"}, {"stop": ["x"]}),
    ({"stop": ["x", "y"]}, {"stop": ["x", "y"]}),
    ({"stop": []}, {}),
    ({"extra_body": {"metadata": {"a": "b"}}}, {"metadata": {"a": "b"}}),
    ({"n": 1}, {}),
]


@pytest.mark.parametrize(("fields", "sent"), FIELDS)
@pytest.mark.parametrize("how", ["constructed", "called"])
def test_each_parameter_on_the_wire(emulator: Emulator, fields: dict[str, Any], sent: Any, how: str) -> None:
    if how == "constructed":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # n goes to model_kwargs, and says so
            model_of(emulator, **fields).invoke("hi")
    else:
        model_of(emulator).invoke("hi", **fields)
    assert {k: v for k, v in body(emulator).items() if k not in ("model", "messages")} == sent


def test_stop_sequences_is_another_name_of_stop(emulator: Emulator) -> None:
    model_of(emulator, stop_sequences=["x"]).invoke("hi")
    assert body(emulator)["stop"] == ["x"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_callers_model_kwargs_stay_as_they_are(emulator: Emulator) -> None:
    given = {"seed": 1}
    for _ in range(2):  # a second model made of the same dict must be the same
        model_of(emulator, model_kwargs=given, n=1).invoke("hi")
        assert body(emulator)["seed"] == 1
    assert given == {"seed": 1}


def test_a_copy_goes_where_it_was_told_to(emulator: Emulator, server: RawServer) -> None:
    model_of(emulator).model_copy(update={"base_url": server.base_url}).invoke("hi")
    assert (len(server.requests), len(emulator.requests)) == (1, 0)


def test_a_call_wins_over_the_model(emulator: Emulator, ask_one: Ask) -> None:
    model = model_of(emulator, temperature=0.1, max_tokens=5, stop=["a"])
    ask_one(model, "hi", temperature=0.9, max_tokens=7, stop=["b"], model=GEMMA)
    sent = body(emulator)
    assert (sent["temperature"], sent["max_completion_tokens"], sent["stop"], sent["model"]) == (0.9, 7, ["b"], GEMMA)
    assert "max_tokens" not in sent


@pytest.mark.parametrize("stops", [["zq1"], [f"zq{i}" for i in range(4)], [f"zq{i}" for i in range(7)]])
def test_stops_up_to_four_are_sent_the_rest_is_done_here(server: RawServer, stops: list[str], ask_one: Ask) -> None:
    # The server honours what it was told; what it was not told is in its text.
    def answer(request: Any) -> Reply:
        text = "before " + next(iter([s for s in stops if s not in request.json["stop"]]), "") + " after"
        if request.json.get("stream"):
            return Reply(sse(*({"content": c} for c in text)))
        return whole({"content": text})

    server.answer = answer
    got = ask_one(model_of(server, stop=stops), "hi")
    assert body(server)["stop"] == stops[:4]
    assert got.content == ("before " if len(stops) > 4 else "before  after")
    assert got.response_metadata["finish_reason"] == "stop"


def test_max_tokens_cuts_the_answer(emulator: Emulator, ask_one: Ask) -> None:
    answer = ask_one(model_of(emulator, max_tokens=3), "Hello there, tell me a lot")
    assert answer.response_metadata["finish_reason"] == "length"


def test_logprobs_are_in_the_metadata(emulator: Emulator, ask_one: Ask) -> None:
    answer = ask_one(model_of(emulator, logprobs=True, top_logprobs=2), "hi")
    rows = answer.response_metadata["logprobs"]["content"]
    assert "".join(r["token"] for r in rows) == answer.content


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 3},
        {"top_p": -1},
        {"top_logprobs": 2},
        {"max_tokens": 0},
        {"frequency_penalty": 2.1},
        {"seed": "x"},
    ],
)
def test_values_out_of_range_are_errors_before_any_request(emulator: Emulator, fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError, match=next(iter(fields)).replace("max_tokens", "max_(completion_)?tokens")):
        model_of(emulator).invoke("hi", **fields)
    assert emulator.requests == []


def test_an_unknown_argument_warns_and_goes_to_model_kwargs(emulator: Emulator) -> None:
    with pytest.warns(UserWarning, match="top_k"):
        model = model_of(emulator, top_k=5)
    assert model.model_kwargs == {"top_k": 5}
    with pytest.raises(UnsupportedParameterError, match="top_k"):
        model.invoke("hi")


def test_unsupported_parameters_are_dropped_where_that_is_wished(emulator: Emulator) -> None:
    with pytest.warns(UserWarning, match="service_tier") as told:
        model_of(emulator, unsupported="drop").invoke("hi", n=2, service_tier="flex")
    assert len(told) == 1
    assert body(emulator).keys() == {"model", "messages"}


def test_extra_body_is_sent_as_it_is(server: RawServer) -> None:
    model_of(server, "ep-4711", extra_body={"top_k": 5}).invoke("hi", extra_body={"min_p": 0.1})
    assert (body(server)["top_k"], body(server)["min_p"]) == (5, 0.1)


def test_extra_headers_and_timeout_of_a_call(server: RawServer) -> None:
    model_of(server, default_headers={"X-A": "1"}).invoke("hi", extra_headers={"X-B": "2"}, timeout=30)
    assert (server.requests[0].headers["x-a"], server.requests[0].headers["x-b"]) == ("1", "2")
    assert server.requests[0].json.keys() == {"model", "messages"}


def test_headers_of_the_answer(server: RawServer, ask_one: Ask) -> None:
    server.answer = lambda r: Reply(
        sse({"content": "x"}) if r.json.get("stream") else whole({"content": "x"}).pieces,
        headers={"X-Request-Id": "req-1"},
        content_type="text/event-stream" if r.json.get("stream") else "application/json",
    )
    answer = ask_one(model_of(server, include_response_headers=True), "hi")
    assert answer.response_metadata["headers"]["x-request-id"] == "req-1"
    assert "headers" not in ask_one(model_of(server), "hi").response_metadata


@pytest.mark.parametrize("wrong", [{"extra_body": 5}, {"extra_headers": 5}])
def test_what_is_not_a_mapping_is_refused(wrong: dict[str, Any], server: RawServer) -> None:
    with pytest.raises(BadRequestError, match=f"{next(iter(wrong))}.* must be a mapping"):
        model_of(server, GEMMA).invoke("hi", **wrong)
    assert server.requests == []
