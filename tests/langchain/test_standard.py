"""langchain-tests' own suites, for three classes of model and for the embeddings, against the strict emulator."""

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests, EmbeddingsUnitTests

from kluster_integrations.emulator import Emulator
from kluster_integrations.langchain import ChatKluster, KlusterEmbeddings

from ..stated import CALLS, call
from .conftest import version_of

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
COUNTS_REASONING = version_of("langchain-tests") < (1, 1, 9)
THIRD_PARTY = "langchain_tests loads with allowed_objects='all', which knows LangChain's own packages only"


CALLED = {
    "What is the value of magic_function(3)? Use the tool.": call("magic_function", input=3),
    "What is the weather in San Francisco, CA?": call("get_weather", location="San Francisco, CA"),
}
CUSTOMERS = ("你好啊集团", "こんにちは株式会社")


@pytest.fixture(autouse=True)
def service(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for question, one in CALLED.items():
        monkeypatch.setitem(CALLS, question, [one])
    for name in CUSTOMERS:
        emulator.reply(tool_calls=[call("unicode_customer", customer_name=name, description="A company.")], when=name)
    monkeypatch.setenv("KLUSTER_API_KEY", "test-key")
    monkeypatch.setenv("KLUSTER_BASE_URL", emulator.base_url)
    # The suites fetch their pictures from the web; any picture will do.
    picture = httpx.Response(200, content=PNG, request=httpx.Request("GET", "https://example.com/x.png"))
    monkeypatch.setattr("langchain_tests.integration_tests.chat_models.httpx.get", lambda *_, **__: picture)
    return


class _Unit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatKluster

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"KLUSTER_API_KEY": "key", "KLUSTER_PLAN": "core"}, self.chat_model_params, {}

    @pytest.mark.xfail(reason=THIRD_PARTY, strict=True)
    def test_serdes(self, model: BaseChatModel, snapshot: Any) -> None:
        super().test_serdes(model, snapshot)


class _Integration(ChatModelIntegrationTests):
    supports_json_mode = True
    supports_anthropic_inputs = False
    supports_image_tool_message = False

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatKluster


class _Tools:
    chat_model_params = {"model": "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo", "temperature": 0}
    model_override_value = "deepseek-ai/DeepSeek-V3-0324"


class _Vision:
    supports_image_tool_message = True
    chat_model_params = {"model": "google/gemma-3-27b-it", "temperature": 0}
    model_override_value = "Qwen/Qwen2.5-VL-7B-Instruct"
    supports_image_inputs = True
    supports_image_urls = True


class _Reasoning:
    chat_model_params = {"model": "deepseek-ai/DeepSeek-R1", "temperature": 0}
    model_override_value = "mistralai/Magistral-Small-2506"


class TestToolsUnit(_Tools, _Unit):
    pass


class TestVisionUnit(_Vision, _Unit):
    pass


class TestReasoningUnit(_Reasoning, _Unit):
    pass


class TestTools(_Tools, _Integration):
    pass


class TestVision(_Vision, _Integration):
    pass


class TestReasoning(_Reasoning, _Integration):
    @pytest.mark.xfail(COUNTS_REASONING, reason="langchain-tests before 1.1.9 wants one block, not one of text")
    def test_stream(self, model: BaseChatModel) -> None:
        super().test_stream(model)

    @pytest.mark.xfail(COUNTS_REASONING, reason="langchain-tests before 1.1.9 wants one block, not one of text")
    async def test_astream(self, model: BaseChatModel) -> None:
        await super().test_astream(model)


class TestEmbeddingsUnit(EmbeddingsUnitTests):
    embedding_model_params = {"model": "BAAI/bge-m3", "api_key": "key"}

    @property
    def embeddings_class(self) -> type[KlusterEmbeddings]:
        return KlusterEmbeddings

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"KLUSTER_API_KEY": "key"}, {"model": "BAAI/bge-m3"}, {}


class TestEmbeddings(EmbeddingsIntegrationTests):
    embedding_model_params = {"model": "BAAI/bge-m3"}

    @property
    def embeddings_class(self) -> type[KlusterEmbeddings]:
        return KlusterEmbeddings
