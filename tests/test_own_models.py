"""`KLUSTER_CATALOG`: a file of one's own models, how a model ends, and fine-tuned ids."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from kluster_integrations import catalog
from kluster_integrations.catalog import ModelSpec, Prices
from kluster_integrations.config import DEFAULT_BASE_URL, KlusterConfig
from kluster_integrations.core import own_models
from kluster_integrations.core.client import Client
from kluster_integrations.errors import BadRequestError, UnsupportedParameterError

from .answers import LLAMA, R1

R1_0528 = "deepseek-ai/DeepSeek-R1-0528"
LLAMA_70B = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
HELLO = [{"role": "user", "content": "hello"}]
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "models.toml"
        path.write_text(text, "utf-8")
        return path

    return write


@pytest.fixture(autouse=True)
def read_anew() -> None:
    own_models._own.cache_clear()
    own_models._warn_of_end.cache_clear()


def test_the_packages_own_catalog_has_the_same_form() -> None:
    path = Path(str(resources.files("kluster_integrations.core").joinpath("catalog.toml")))
    found = [(spec.id, spec.context_window, spec.prices) for spec in catalog.read(path)]
    assert found == [(spec.id, spec.context_window, spec.prices) for spec in catalog.all_models()]


def test_what_a_row_does_not_say_is_as_its_base_has_it(write: Write) -> None:
    path = write(f"""
        [[models]]
        id = "ep-4711"
        base = "{LLAMA}"
        context_window = 16_384
        native = ["response_format", "tools"]
        prices = {{ input = 0, output = 0.5 }}

        [[models]]
        id = "ep-4712"
        base = "ep-4711"
        until = 2031-05-01

        [[models]]
        id = "{R1}"
        native = ["stream_usage"]
    """)
    first, second, third = catalog.read(path)
    assert (first.context_window, first.max_output_tokens, first.fine_tunable) == (16_384, 131_072, True)
    assert (first.native, first.prices) == ({"response_format", "tools"}, Prices(0, 0.5))
    assert (second.context_window, second.until, second.has_ended) == (16_384, "2031-05-01", False)
    assert (third.reasoning, third.native, third.known) == (True, {"stream_usage"}, True)


def test_an_unknown_model_has_its_window_as_the_limit_of_output_and_without_one_none(write: Write) -> None:
    path = write('[[models]]\nid = "a"\ncontext_window = 9000\n[[models]]\nid = "b"\nsupports_tools = true\n')
    first, second = catalog.read(path)
    assert (first.known, first.max_output_tokens) == (True, 9000)
    assert (second.known, second.supports_tools, second.native) == (False, True, {"logprobs", "tools"})


def test_batch_prices_of_some_windows_are_enough(write: Write) -> None:
    [spec] = catalog.read(write('[[models]]\nid = "a"\nbatch_prices = { 24h = 0.5 }'))
    assert spec.batch_prices == {"24h": 0.5}
    with pytest.raises(ValueError, match=r"batch_prices has \['12h'\]; allowed are 24h, 48h, 72h"):
        ModelSpec(id="a", batch_prices={"12h": 1.0})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models = 3", ["[[models]]"]),
        ('[model]\nid = "a"', ["model", "[[models]]"]),
        ("[[models]]\nid = ", ["is not TOML"]),
        ("[[models]]\ncontext_window = 1", ["model number 1", "id is missing"]),
        ('[[models]]\nid = ""', ["id=''", "a text that is not empty"]),
        ('[[models]]\nid = "a"\n[[models]]\nid = "a"', ["'a' twice"]),
        ('[[models]]\nid = "a"\ncontext_windw = 1', ["'a'", "context_windw=1", "did you mean context_window?"]),
        ('[[models]]\nid = "a"\ncontext_window = "8k"', ["'a'", "context_window='8k'", "a whole number, 0 or more"]),
        ('[[models]]\nid = "a"\ncontext_window = true', ["context_window=True"]),
        ('[[models]]\nid = "a"\nmax_output_tokens = -1', ["max_output_tokens=-1"]),
        ('[[models]]\nid = "a"\nreasoning = "yes"', ["reasoning='yes'", "true or false"]),
        ('[[models]]\nid = "a"\nnative = ["respnse_format"]', ["native=['respnse_format']", "response_format"]),
        ('[[models]]\nid = "a"\nnative = "n"', ["native='n'"]),
        ('[[models]]\nid = "a"\nprices = { input = 1 }', ["prices={'input': 1}", "output"]),
        ('[[models]]\nid = "a"\nprices = { input = "1", output = 2 }', ["prices="]),
        ('[[models]]\nid = "a"\nbatch_prices = { 12h = 1 }', ["batch_prices={'12h': 1}", "{ 24h = …, 48h = …, 72h"]),
        ('[[models]]\nid = "a"\nbatch_prices = { 24h = "1" }', ["batch_prices={'24h': '1'}"]),
        ('[[models]]\nid = "a"\npurpose = "talk"', ["purpose='talk'", "chat, embeddings, verification"]),
        ('[[models]]\nid = "a"\nuntil = "soon"', ["until='soon'", "YYYY-MM-DD"]),
        ('[[models]]\nid = "a"\nprices = { input = inf, output = 1 }', ["prices={'input': inf"]),
        (f"a = {'[' * 5_000}", ["too deep"]),
        (f'[[models]]\nid = "a"\nbase = "{LLAMA}x"', ["base=", f"did you mean '{LLAMA}'?"]),
    ],
)
def test_what_is_wrong_is_named(write: Write, text: str, words: list[str]) -> None:
    path = write(text)
    with pytest.raises(BadRequestError) as caught:
        catalog.read(path)
    assert caught.value.hint
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_what_is_large_is_not_all_shown(write: Write) -> None:
    text = "x" * 100_000
    for row in (
        f'id = "a"\nnote = ["{text}"]',
        f'id = "{text}"\nnote = 1',
        f'id = "a"\nbase = "{text}"',
        f"{text} = 1",
    ):
        with pytest.raises(BadRequestError) as caught:
            catalog.read(write(f"[[models]]\n{row}"))
        assert len(str(caught.value)) < 1_500


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_it(write: Write) -> None:
    assert [spec.id for spec in catalog.read(write('\ufeff[[models]]\r\nid = "mine"\r\n'))] == ["mine"]


def test_a_tilde_is_the_users_folder(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write('[[models]]\nid = "mine"\ncontext_window = 777\n')
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(path.parent))
    monkeypatch.setenv("KLUSTER_CATALOG", "~/models.toml")
    for spec in (catalog.get("mine"), catalog.get("mine", config=KlusterConfig()), *catalog.read("~/models.toml")):
        assert spec.context_window == 777


def test_a_missing_file_is_named_before_any_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLUSTER_CATALOG", str(tmp_path / "none.toml"))
    with pytest.raises(BadRequestError, match=r"none\.toml.*No such file"):
        Client(KlusterConfig(api_key="any"))


def test_the_file_holds_for_its_configuration_and_the_variable_for_all(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write('[[models]]\nid = "mine"\ncontext_window = 777\n')
    config = KlusterConfig(catalog=path)
    assert catalog.get("mine", config=config).context_window == 777
    assert not catalog.get("mine").known
    monkeypatch.setenv("KLUSTER_CATALOG", str(path))
    assert catalog.get("mine").context_window == 777
    assert "mine" in {spec.id for spec in catalog.all_models()}
    assert "mine" in {spec.id for spec in catalog.select()}


def test_a_relative_path_stays_what_it_was(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write('[[models]]\nid = "mine"\ncontext_window = 777\n')
    monkeypatch.chdir(path.parent)
    config = KlusterConfig(catalog="models.toml")
    monkeypatch.chdir("/")
    assert catalog.get("mine", config=config).context_window == 777


class TestFineTuned:
    def test_it_has_its_base_models_spec_and_no_price(self) -> None:
        spec = catalog.get("ft:meta-llama:Llama-3.1-8B-Instruct:personal:0ee22019")
        base = catalog.get(LLAMA)
        assert (spec.context_window, spec.supports_tools, spec.known) == (base.context_window, True, True)
        assert (spec.id, spec.prices, dict(spec.batch_prices)) == (
            "ft:meta-llama:Llama-3.1-8B-Instruct:personal:0ee22019",
            None,
            {},
        )

    def test_of_the_right_base(self) -> None:
        assert catalog.get("ft:meta-llama:Llama-3.3-70B-Instruct:me:1").sources["capabilities"] == f"as {LLAMA_70B}"

    @pytest.mark.parametrize("model", ["ft:", "ft:a", "ft:meta-llama:Llama:me:1", "ft:x:Unheard-Of-7B:me:1", "ft::::"])
    def test_of_no_single_base_it_is_unknown(self, model: str) -> None:
        assert not catalog.get(model).known

    def test_one_that_was_added_is_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from kluster_integrations.core import specs

        monkeypatch.setattr(specs, "_models", dict(specs._models))
        model = "ft:meta-llama:Llama-3.1-8B-Instruct:me:2"
        catalog.add(ModelSpec(id=model, context_window=5))
        assert catalog.get(model).context_window == 5


class TestEnd:
    def ask(self, model: str, **values: Any) -> tuple[str, list[str]]:
        client = Client(KlusterConfig(api_key="any", **values))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            request = client.build(model, HELLO, {})
        assert client.spec(model) == request.spec
        return request.body["model"], [str(w.message) for w in caught]

    def test_who_asks_for_it_is_warned_once_and_told_of_its_successor(self) -> None:
        model, said = self.ask(R1)
        assert model == R1
        assert len(said) == 1
        assert all(word in said[0] for word in (R1, "2025-07", R1_0528, "KLUSTER_FALLBACK=1"))
        assert self.ask(R1) == (R1, [])

    def test_on_another_server_the_docs_say_nothing(self) -> None:
        assert self.ask(R1, base_url="http://127.0.0.1:9/v1") == (R1, [])

    def test_with_fallback_its_successor_is_asked(self) -> None:
        model, said = self.ask(R1, fallback=True)
        assert model == R1_0528
        assert len(said) == 1
        assert "in its place" in said[0]

    def test_without_a_successor_it_stays(self) -> None:
        model, said = self.ask("deepseek-ai/DeepSeek-V3", fallback=True, base_url=DEFAULT_BASE_URL)
        assert model == "deepseek-ai/DeepSeek-V3"
        assert len(said) == 1

    def test_ones_own_end_holds_everywhere_and_a_circle_ends(self, write: Write) -> None:
        path = write("""
            [[models]]
            id = "a"
            until = "2024"
            successor = "b"

            [[models]]
            id = "b"
            until = 2024-05-01
            successor = "a"
        """)
        options = {"catalog": path, "base_url": "http://127.0.0.1:9/v1"}
        assert self.ask("a", **options)[1]
        own_models._warn_of_end.cache_clear()
        assert self.ask("a", **options, fallback=True)[0] == "b"

    @pytest.mark.parametrize(("until", "over"), [("2024", True), ("2024-01", True), ("2999", False), (None, False)])
    def test_until(self, until: str | None, over: bool) -> None:
        assert ModelSpec(id="a", until=until).has_ended is over

    def test_an_embedding_model_falls_back_too(self, write: Write) -> None:
        from kluster_integrations.core.embeddings import build

        path = write('[[models]]\nid = "e"\npurpose = "embeddings"\nuntil = "2024"\nsuccessor = "BAAI/bge-m3"\n')
        with pytest.warns(UserWarning, match="in its place"):
            [body] = build("e", ["a"], config=KlusterConfig(catalog=path, fallback=True))
        assert body["model"] == "BAAI/bge-m3"


class TestNative:
    def build(self, write: Write, native: str, params: dict[str, Any], **options: Any) -> dict[str, Any]:
        path = write(f'[[models]]\nid = "mine"\ncontext_window = 8192\nnative = {native}\n')
        return Client(KlusterConfig(api_key="any", catalog=path)).build("mine", HELLO, params, **options).body

    def test_usage_of_a_stream_is_asked_for(self, write: Write) -> None:
        assert self.build(write, '["stream_usage"]', {}, stream=True)["stream_options"] == {"include_usage": True}
        assert "stream_options" not in self.build(write, '["stream_usage"]', {})

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
    def test_the_limit_goes_under_the_servers_name(self, write: Write, name: str) -> None:
        body = self.build(write, '["max_tokens"]', {name: 9})
        assert (body.get("max_tokens"), body.get("max_completion_tokens")) == (9, None)

    def test_a_field_of_openais_is_sent(self, write: Write) -> None:
        body = self.build(write, '["reasoning_effort", "user"]', {"reasoning_effort": "low", "user": "ada"})
        assert (body["reasoning_effort"], body["user"]) == ("low", "ada")

    def test_logprobs_that_the_server_lacks_are_refused(self, write: Write) -> None:
        with pytest.raises(UnsupportedParameterError, match=r"The server of 'mine'.*logprobs=True"):
            self.build(write, "[]", {"logprobs": True, "top_logprobs": 2})
        assert self.build(write, '["logprobs"]', {"logprobs": True})["logprobs"] is True

    def test_json_beside_tools_is_prompted(self, write: Write) -> None:
        tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
        body = self.build(
            write, '["response_format", "tools"]', {"tools": [tool], "response_format": {"type": "json_object"}}
        )
        assert "response_format" not in body
        assert body["tools"]

    def test_dimensions_of_embeddings_are_sent(self, write: Write) -> None:
        from kluster_integrations.core.embeddings import build

        path = write('[[models]]\nid = "e"\npurpose = "embeddings"\nnative = ["dimensions"]\n')
        config = KlusterConfig(catalog=path)
        assert [body["dimensions"] for body in build("e", ["a"], config=config, dimensions=64)] == [64]
        with pytest.raises(UnsupportedParameterError):
            build("BAAI/bge-m3", ["a"], config=config, dimensions=64)

    @pytest.mark.parametrize("native", ["response_format", {"respons_format"}])
    def test_a_name_that_is_not_known_is_refused(self, native: Any) -> None:
        with pytest.raises(ValueError, match="native="):
            ModelSpec(id="a", native=native)

    def test_tools_are_one_fact_under_two_names(self) -> None:
        assert ModelSpec(id="a", supports_tools=True) == ModelSpec(id="a", native=frozenset({"logprobs", "tools"}))
