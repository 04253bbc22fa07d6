from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations import catalog
from kluster_integrations.catalog import ModelSpec
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core import request as request_module
from kluster_integrations.core.request import build
from kluster_integrations.core.tokens import IMAGE_TOKENS, estimate_prompt
from kluster_integrations.core.types import ChatRequest
from kluster_integrations.errors import (
    BadRequestError,
    ContextWindowExceededError,
    UnsupportedParameterError,
)

from .asked import (
    BAD,
    DOCUMENTED,
    DROP,
    ERROR,
    GEMMA,
    GOOD,
    HELLO,
    LLAMA,
    NEMO,
    OPENAI,
    QWEN,
    TOOL_FIELDS,
    UNKNOWN,
    UNSUPPORTED,
    WEATHER,
    image,
    make,
    picture,
    refusal,
    silent,
    words,
)


class TestSent:
    def test_the_least(self) -> None:
        assert make().body == {"model": LLAMA, "messages": HELLO}

    @pytest.mark.parametrize(("name", "value"), [(name, v) for name, values in GOOD.items() for v in values])
    def test_in_range(self, name: str, value: object) -> None:
        assert silent(params={name: value}).body[name] == value

    @pytest.mark.parametrize(("name", "value"), [(name, v) for name, values in BAD.items() for v in values])
    @pytest.mark.parametrize("config", [ERROR, DROP], ids=["error", "drop"])
    def test_out_of_range_names_parameter_and_value(self, name: str, value: object, config: KlusterConfig) -> None:
        text = refusal(params={name: value}, config=config)
        assert f"{name}={value!r}" in text

    @pytest.mark.parametrize(
        ("name", "allowed"),
        [
            ("temperature", "from 0 to 2"),
            ("top_p", "from 0 to 1"),
            ("frequency_penalty", "from -2 to 2"),
            ("max_completion_tokens", "1 or more"),
            ("logprobs", "True or False"),
        ],
    )
    def test_out_of_range_says_what_is_allowed(self, name: str, allowed: str) -> None:
        assert allowed in refusal(params={name: "bad"})

    @pytest.mark.parametrize("model", [LLAMA, UNKNOWN])
    def test_an_asynchronous_request_is_refused(self, model: str) -> None:
        metadata = {"@kluster.ai": {"async": True, "completion_window": "24h"}}
        for config in (ERROR, DROP):
            text = refusal(params={"metadata": metadata}, model=model, config=config, kind=UnsupportedParameterError)
            assert "metadata['@kluster.ai']['async']=True" in text
        with pytest.raises(UnsupportedParameterError):
            make(extra_body={"metadata": metadata}, model=model)

    @pytest.mark.parametrize(
        ("model", "plan", "asked", "sent"),
        [
            (GEMMA, None, 32_000, 8_192),
            (GEMMA, None, 8_192, 8_192),
            (GEMMA, "trial", 8_192, 4_096),
            (LLAMA, "trial", 32_000, 4_096),
            (LLAMA, None, 32_000, 32_000),
            (UNKNOWN, None, 32_000, 32_000),  # only the server knows
        ],
    )
    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
    def test_the_limit_of_tokens_is_a_ceiling(
        self, name: str, model: str, plan: Any, asked: int, sent: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        request_module._log_lowered.cache_clear()
        config = KlusterConfig(api_key="kk-test", plan=plan)
        for _ in range(2):
            assert make(params={name: asked}, model=model, config=config).body["max_completion_tokens"] == sent
        assert len(caplog.records) == (asked != sent)  # said once

    @pytest.mark.parametrize("model", ["deepseek-ai/DeepSeek-R1", QWEN, "mistralai/Magistral-Small-2506"])
    def test_stops_of_a_model_that_thinks_stay_here(self, model: str) -> None:
        made = make(params={"stop": ["a", "b"]}, model=model)
        assert "stop" not in made.body
        assert made.client_stops == ("a", "b")

    @pytest.mark.parametrize("top", [0, 1, 20])
    def test_top_logprobs(self, top: int) -> None:
        assert make(params={"logprobs": True, "top_logprobs": top}).body["top_logprobs"] == top

    @pytest.mark.parametrize("top", [-1, 21, 1.5, "3", True])
    def test_top_logprobs_out_of_range(self, top: object) -> None:
        assert f"top_logprobs={top!r}" in refusal(params={"logprobs": True, "top_logprobs": top})

    @pytest.mark.parametrize("logprobs", [{}, {"logprobs": False}, {"logprobs": None}])
    def test_top_logprobs_needs_logprobs(self, logprobs: dict[str, Any]) -> None:
        assert "logprobs=True" in refusal(params={"top_logprobs": 3, **logprobs})

    def test_stream(self) -> None:
        assert make(stream=True).body["stream"] is True
        assert "stream" not in make(stream=False).body

    @pytest.mark.parametrize("params", [{"stream": True}, {"stream": False}, {"stream": None}])
    def test_stream_is_the_callers_of_build(self, params: dict[str, Any]) -> None:
        assert "stream" not in make(params=params).body
        assert make(params=params, stream=True).body["stream"] is True

    @pytest.mark.parametrize("name", ["model", "messages"])
    def test_model_and_messages_are_not_parameters(self, name: str) -> None:
        assert make(params={name: "other"}).body == {"model": LLAMA, "messages": HELLO}

    @pytest.mark.parametrize("model", [LLAMA, "kluster/x", "acme/Ünïcode", "a", "endpoint-01/b/c"])
    def test_the_model_is_sent_verbatim(self, model: str) -> None:
        assert make(model=model).body["model"] == model

    @pytest.mark.parametrize("model", ["", "  ", None, 3])
    def test_what_is_not_a_model_is_refused(self, model: Any) -> None:
        with pytest.raises(BadRequestError, match="model"):
            build(model, HELLO, {}, config=ERROR)


class TestMaxTokens:
    def test_becomes_max_completion_tokens(self) -> None:
        assert silent(params={"max_tokens": 7}).body["max_completion_tokens"] == 7

    @pytest.mark.parametrize(
        "order", [("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")]
    )
    def test_the_present_name_wins(self, order: tuple[str, str]) -> None:
        values = {"max_tokens": 7, "max_completion_tokens": 9}
        assert make(params={name: values[name] for name in order}).body["max_completion_tokens"] == 9

    @pytest.mark.parametrize(
        "order", [("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")]
    )
    def test_a_null_of_the_present_name_does_not_win(self, order: tuple[str, str]) -> None:
        values = {"max_tokens": 7, "max_completion_tokens": None}
        assert make(params={name: values[name] for name in order}).body["max_completion_tokens"] == 7

    @pytest.mark.parametrize("value", [0, -1, 1.5, "10", True])
    def test_out_of_range_is_named_as_given(self, value: object) -> None:
        assert f"max_tokens={value!r}" in refusal(params={"max_tokens": value})

    def test_in_extra_body(self) -> None:
        assert make(extra_body={"max_tokens": 7}).body["max_completion_tokens"] == 7


class TestNothingAskedFor:
    @pytest.mark.parametrize("name", [*sorted(OPENAI - {"model", "messages"}), "top_k", "anything"])
    def test_null_is_dropped_in_silence(self, name: str) -> None:
        assert silent(params={name: None}).body == {"model": LLAMA, "messages": HELLO}

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("n", 1),
            ("store", False),
            ("service_tier", "auto"),
            ("modalities", ["text"]),
            ("stop", []),
            ("stop", ""),
            ("stop", [""]),
            ("stop", ()),
            ("tools", []),
            ("functions", []),
            ("function_call", "none"),
            ("response_format", {"type": "text"}),
            ("stream_options", {"include_usage": True}),
            ("stream_options", {}),
            ("tool_choice", "auto"),
            ("tool_choice", "none"),
            ("parallel_tool_calls", True),
            ("parallel_tool_calls", False),
        ],
    )
    @pytest.mark.parametrize("config", [ERROR, DROP], ids=["error", "drop"])
    def test_harmless_defaults_are_dropped_in_silence(self, name: str, value: object, config: KlusterConfig) -> None:
        assert silent(params={name: value}, config=config).body == {"model": LLAMA, "messages": HELLO}


class TestUnsupported:
    @pytest.mark.parametrize(("name", "value"), UNSUPPORTED)
    def test_error_names_parameter_and_the_choice(self, name: str, value: object) -> None:
        text = refusal(params={name: value}, kind=UnsupportedParameterError)
        assert f"{name}={value!r}" in text
        assert 'unsupported="drop"' in text
        assert "temperature" in text  # what is allowed

    @pytest.mark.parametrize(("name", "value"), UNSUPPORTED)
    def test_drop_leaves_it_out_with_one_warning(self, name: str, value: object) -> None:
        with pytest.warns(UserWarning, match=name) as caught:
            request = make(params={name: value, "temperature": 1}, config=DROP)
        assert len(caught) == 1
        assert request.body == {"model": LLAMA, "messages": HELLO, "temperature": 1}

    def test_several_are_named_at_once(self) -> None:
        text = refusal(params={"n": 2, "store": True, "user": "ada"}, kind=UnsupportedParameterError)
        assert all(part in text for part in ("n=2", "store=True", "user='ada'"))

    def test_several_are_dropped_with_one_warning(self) -> None:
        with pytest.warns(UserWarning, match="kluster") as caught:
            make(params={"n": 2, "store": True, "user": "ada"}, config=DROP)
        assert len(caught) == 1
        assert all(name in str(caught[0].message) for name in ("n=2", "store=True", "user='ada'"))

    @pytest.mark.parametrize(
        ("name", "value", "instead"),
        [("functions", [{"name": "f"}], "tools"), ("function_call", "auto", "tool_choice"), ("n", 2, "n times")],
    )
    def test_the_hint_says_what_to_use(self, name: str, value: object, instead: str) -> None:
        with pytest.raises(UnsupportedParameterError) as caught:
            make(params={name: value})
        assert instead in (caught.value.hint or "")

    @pytest.mark.parametrize(
        ("name", "value", "what"),
        [
            ("temperature", 9, "a number from 0 to 2"),
            ("max_tokens", 0, "leave it out"),
            ("stop", 3, 'stop="END"'),
            ("tool_choice", "no_such_tool", "pass tools"),
            ("response_format", {"type": "xml"}, '"type": "json_schema"'),
        ],
    )
    def test_the_hint_of_a_wrong_value_says_what_to_write(self, name: str, value: object, what: str) -> None:
        with pytest.raises(BadRequestError) as caught:
            make(params={name: value})
        assert what in (caught.value.hint or "")

    def test_a_huge_value_is_not_shown_whole(self) -> None:
        assert len(refusal(params={"prediction": {"content": "x" * 100_000}}, kind=UnsupportedParameterError)) < 2_000

    def test_it_is_a_bad_request(self) -> None:
        with pytest.raises(BadRequestError):
            make(params={"n": 2})


class TestExtraBody:
    def test_unknown_fields_are_sent_as_they_are(self) -> None:
        extra = {"top_k": 5, "chat_template_kwargs": {"enable_thinking": False}}
        body = silent(extra_body=extra).body
        assert {name: body[name] for name in extra} == extra

    @pytest.mark.parametrize("name", sorted(OPENAI - DOCUMENTED - TOOL_FIELDS))
    def test_openais_own_fields_are_treated_like_parameters(self, name: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                body = make(extra_body={name: {"type": "text"}}, config=DROP).body
            except BadRequestError:
                return
        assert name not in body

    @pytest.mark.parametrize(("name", "value"), [("n", 2), ("store", True), ("user", "ada"), ("service_tier", "flex")])
    def test_what_is_unsupported_is_refused_there_too(self, name: str, value: object) -> None:
        refusal(extra_body={name: value}, kind=UnsupportedParameterError)

    def test_ranges_hold_there_too(self) -> None:
        assert "temperature=9" in refusal(extra_body={"temperature": 9})

    def test_it_wins_over_a_parameter(self) -> None:
        assert make(params={"temperature": 1}, extra_body={"temperature": 0}).body["temperature"] == 0

    def test_model_and_messages_cannot_be_replaced(self) -> None:
        body = make(extra_body={"model": "other", "messages": [], "stream": True}).body
        assert body == {"model": LLAMA, "messages": HELLO}

    @pytest.mark.parametrize("extra", [None, {}])
    def test_none(self, extra: Any) -> None:
        assert make(extra_body=extra).body == {"model": LLAMA, "messages": HELLO}


class TestStop:
    @pytest.mark.parametrize(
        ("stop", "sent", "here"),
        [
            ("END", ["END"], ()),
            (["a"], ["a"], ()),
            (["a", "b", "c", "d"], ["a", "b", "c", "d"], ()),
            (["a", "b", "c", "d", "e"], ["a", "b", "c", "d"], ("e",)),
            (list("abcdefg"), list("abcd"), ("e", "f", "g")),
            (("a", "b"), ["a", "b"], ()),
            (["a", "a", "b", "a", "c", "d"], ["a", "b", "c", "d"], ()),
            (["a", "", "b"], ["a", "b"], ()),
            (["\n\n", " ", "\u00fc"], ["\n\n", " ", "\u00fc"], ()),
        ],
    )
    def test_four_are_sent_and_the_others_kept_here(self, stop: Any, sent: list[str], here: tuple[str, ...]) -> None:
        request = silent(params={"stop": stop})
        assert (request.body["stop"], request.client_stops) == (sent, here)

    @pytest.mark.parametrize("stop", [3, 0, True, False, [1], [None], ["a", None], {"a"}, {"a": 1}, b"a", [["a"]]])
    def test_what_is_not_a_text_is_refused(self, stop: object) -> None:
        assert "stop=" in refusal(params={"stop": stop})


class TestWindow:
    @pytest.mark.parametrize("model", [LLAMA, GEMMA, QWEN, "mistralai/Mistral-Small-24B-Instruct-2501"])
    def test_what_surely_overflows_is_refused(self, model: str) -> None:
        window = catalog.get(model).context_window
        with pytest.raises(ContextWindowExceededError) as caught:
            make(words(window + 1), model=model)
        err = caught.value
        assert all(part in str(err) for part in (model, str(window), str(window + 1)))
        assert (err.status_code, err.code) == (None, "context_length_exceeded")
        assert err.hint

    @pytest.mark.parametrize("model", [LLAMA, QWEN])
    def test_what_just_fits_is_sent(self, model: str) -> None:
        make(words(catalog.get(model).context_window), model=model)

    def test_all_messages_count(self) -> None:
        window = catalog.get(QWEN).context_window
        with pytest.raises(ContextWindowExceededError):
            make(words(window // 2 + 1) * 2, model=QWEN)

    def test_texts_in_parts_count(self) -> None:
        window = catalog.get(GEMMA).context_window
        content = [{"type": "text", "text": "a " * (window + 1)}, image()]
        with pytest.raises(ContextWindowExceededError):
            make([{"role": "user", "content": content}], model=GEMMA)

    @pytest.mark.parametrize("model", [LLAMA, UNKNOWN, QWEN])
    def test_long_words_that_are_one_token_fit(self, model: str) -> None:
        # Llama 3 and Qwen have words of 24 letters as one token.
        make([{"role": "user", "content": "IllegalArgumentException " * 35_000}], model=model)

    @pytest.mark.parametrize("char", ["=", "-", "*", "#", "/"])
    def test_rules_and_rows_fit(self, char: str) -> None:
        # Llama 3 has runs of 64 and more of one character as one token.
        make([{"role": "user", "content": (char * 64 + "\n") * 36_000}], model=LLAMA)

    @pytest.mark.parametrize("char", [" ", "\n", "\t", "\u3000"])
    def test_white_space_fits(self, char: str) -> None:
        make([{"role": "user", "content": char * 500_000}], model=LLAMA)

    def test_an_unknown_models_window_is_the_servers_to_judge(self) -> None:
        make(words(500_000), model=UNKNOWN)

    def test_an_added_models_window_counts(self, own_catalog: None) -> None:
        catalog.add(ModelSpec(id=UNKNOWN, context_window=10))
        with pytest.raises(ContextWindowExceededError):
            make(words(11), model=UNKNOWN)

    def test_trial_has_less(self) -> None:
        config = KlusterConfig(api_key="kk-test", plan="trial")
        with pytest.raises(ContextWindowExceededError, match="32768"):
            make(words(32_769), config=config)
        make(words(32_768), config=config)
        make(words(32_769), config=ERROR)


class TestRefreshedModels:
    """A model that the server lists without saying what it can do: not known, so not refused."""

    @pytest.fixture(autouse=True)
    def bare(self, own_catalog: None, tmp_path: Path) -> None:
        cache = tmp_path / "models.json"
        cache.write_text('[{"id": "acme/bare", "context_length": null, "tags": null}]')
        catalog.load(cache)

    def test_a_long_prompt_is_sent(self) -> None:
        make(words(40_000), model="acme/bare")

    def test_an_image_is_sent(self) -> None:
        sent = build("acme/bare", picture(image()), {}, config=ERROR).body["messages"][0]["content"]
        assert sent[1] == image()


class TestOtherModels:
    def test_an_embedding_model_does_not_chat(self) -> None:
        assert "BAAI/bge-m3" in refusal(model="BAAI/bge-m3")

    def test_the_verifier_chats(self) -> None:
        make([*HELLO, {"role": "assistant", "content": "hi"}], model="klusterai/verify-reliability")

    def test_the_plan_is_in_the_spec(self) -> None:
        assert make(config=KlusterConfig(plan="trial")).spec.max_output_tokens == 4096


class TestEstimate:
    def test_grows_with_messages_and_tools(self) -> None:
        def estimated(request: ChatRequest) -> int:
            return estimate_prompt(request.body["messages"], request.body.get("tools") or ())

        one = estimated(make())
        assert one >= 2
        assert estimated(make([*HELLO, *HELLO])) > one
        assert estimated(make(params={"tools": [WEATHER]})) > one + 20
        assert estimated(make(params={"tools": [WEATHER]}, model=NEMO)) > one + 20

    def test_an_image_costs_what_an_image_costs(self) -> None:
        text = estimate_prompt([{"role": "user", "content": "What is it?"}])
        assert estimate_prompt(picture(image(f"data:image/png;base64,{'A' * 9_000}"))) == text + IMAGE_TOKENS

    def test_can_be_counted_by_another_tokenizer(self) -> None:
        assert estimate_prompt([{"role": "user", "content": "hello"}], count=len) == len("hello") + 4


def test_an_extra_body_that_is_not_a_mapping_is_refused() -> None:
    with pytest.raises(BadRequestError, match="extra_body=5 must be a mapping"):
        build(LLAMA, HELLO, {}, config=ERROR, extra_body=5)  # type: ignore[arg-type]
