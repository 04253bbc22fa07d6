"""`KlusterEmbeddings`: the four methods, batches, order, what is refused, and LangChain's vector store."""

from __future__ import annotations

import base64
import json
import pickle
import struct
from collections.abc import Callable
from typing import Any

import openai
import pytest
from langchain_core.vectorstores import InMemoryVectorStore

from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.langchain import (
    KlusterBadRequestError,
    KlusterEmbeddings,
    KlusterInternalServerError,
    KlusterUnsupportedParameterError,
)
from kluster_integrations.langchain._compat import ContextOverflowError, ModelRateLimitError

from ..raw_server import RawRequest, RawServer, Reply

TEXTS = ["The cat sat on the mat.", "A cat sits on a mat.", "Quantum physics is hard.", "Rain in Spain.", "Ada wrote."]


@pytest.fixture
def embeddings(emulator: Emulator) -> Callable[..., KlusterEmbeddings]:
    def make(**fields: Any) -> KlusterEmbeddings:
        return KlusterEmbeddings(api_key="key", base_url=emulator.base_url, max_retries=0, **fields)

    return make


def vectors(*rows: tuple[int, Any]) -> Reply:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in rows]
    body = {"object": "list", "data": data, "model": "BAAI/bge-m3", "usage": {"prompt_tokens": 3}}
    return Reply([json.dumps(body).encode()], content_type="application/json", framing="length")


def of(server: RawServer, **fields: Any) -> KlusterEmbeddings:
    return KlusterEmbeddings(api_key="key", base_url=server.base_url, max_retries=0, **fields)


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


async def test_the_four_methods_agree(embeddings: Callable[..., KlusterEmbeddings]) -> None:
    model = embeddings()

    documents = model.embed_documents(TEXTS)

    assert [len(vector) for vector in documents] == [1024] * len(TEXTS)
    assert all(type(number) is float for number in documents[0])
    assert await model.aembed_documents(TEXTS) == documents
    assert model.embed_query(TEXTS[2]) == documents[2]
    assert await model.aembed_query(TEXTS[2]) == documents[2]


@pytest.mark.parametrize(("chunk_size", "requests"), [(1, 5), (2, 3), (5, 1), (256, 1)])
async def test_batches_keep_the_order(
    embeddings: Callable[..., KlusterEmbeddings], emulator: Emulator, chunk_size: int, requests: int
) -> None:
    expected = embeddings().embed_documents(TEXTS)
    emulator.clear()
    model = embeddings(chunk_size=chunk_size)

    assert model.embed_documents(TEXTS) == expected
    assert len(emulator.requests) == requests
    assert await model.aembed_documents(TEXTS) == expected
    assert [text for r in emulator.requests[:requests] for text in r.body["input"]] == TEXTS  # type: ignore[index,call-overload]


def test_no_texts_need_no_request(embeddings: Callable[..., KlusterEmbeddings], emulator: Emulator) -> None:
    assert embeddings().embed_documents([]) == []
    assert emulator.requests == []


def test_only_documented_fields_are_sent(embeddings: Callable[..., KlusterEmbeddings], emulator: Emulator) -> None:
    embeddings().embed_documents(["Zürich 東京"])

    body = {"model": "BAAI/bge-m3", "input": ["Zürich 東京"], "encoding_format": "base64"}
    assert emulator.requests[0].body == body


@pytest.mark.parametrize("texts", [[""], ["a", "  "], ["a", None], [[1, 2, 3]], [3]], ids=str)
async def test_what_is_not_a_text_is_refused_before_any_request(
    embeddings: Callable[..., KlusterEmbeddings], emulator: Emulator, texts: Any
) -> None:
    where = rf"input\[{len(texts) - 1}\]"
    with pytest.raises(KlusterBadRequestError, match=where):
        embeddings(chunk_size=1).embed_documents(texts)
    with pytest.raises(KlusterBadRequestError, match=where):
        await embeddings(chunk_size=1).aembed_documents(texts)
    assert emulator.requests == []


def test_an_empty_query_is_refused(embeddings: Callable[..., KlusterEmbeddings], emulator: Emulator) -> None:
    with pytest.raises(openai.BadRequestError):
        embeddings().embed_query("")
    assert emulator.requests == []


def test_a_single_text_for_the_list_is_refused(embeddings: Callable[..., KlusterEmbeddings]) -> None:
    with pytest.raises(KlusterBadRequestError, match="must be a list of texts"):
        embeddings().embed_documents("one text")  # type: ignore[arg-type]


def test_dimensions_are_refused(embeddings: Callable[..., KlusterEmbeddings], emulator: Emulator) -> None:
    with pytest.raises(KlusterUnsupportedParameterError, match="dimensions=256"):
        embeddings(dimensions=256).embed_query("x")
    assert emulator.requests == []


def test_dimensions_are_never_dropped(embeddings: Callable[..., KlusterEmbeddings], emulator: Emulator) -> None:
    with pytest.raises(KlusterUnsupportedParameterError, match="dimensions=256"):
        embeddings(dimensions=256, unsupported="drop").embed_query("x")
    assert len(embeddings(dimensions=1024).embed_query("x")) == 1024
    assert "dimensions" not in emulator.requests[0].body  # type: ignore[operator]


def test_unknown_arguments_are_refused(embeddings: Callable[..., KlusterEmbeddings]) -> None:
    with pytest.raises(ValueError, match="chunksize"):
        embeddings(chunksize=3)


@pytest.mark.parametrize("chunk_size", [0, -1, 2049])
def test_chunk_size_is_bounded(embeddings: Callable[..., KlusterEmbeddings], chunk_size: int) -> None:
    with pytest.raises(ValueError, match="chunk_size"):
        embeddings(chunk_size=chunk_size)


def test_a_text_that_is_too_long_is_an_overflow(embeddings: Callable[..., KlusterEmbeddings]) -> None:
    with pytest.raises(ContextOverflowError, match="8192"):
        embeddings().embed_query("word " * 9000)


def test_a_chat_model_is_refused(embeddings: Callable[..., KlusterEmbeddings]) -> None:
    with pytest.raises(KlusterBadRequestError, match="makes no embeddings"):
        embeddings(model="deepseek-ai/DeepSeek-R1").embed_query("x")


def test_errors_are_langchains_and_openais(embeddings: Callable[..., KlusterEmbeddings], emulator: Emulator) -> None:
    emulator.add_fault(Fault("status", status=429, path="/v1/embeddings"))

    with pytest.raises(ModelRateLimitError) as caught:
        embeddings().embed_query("x")
    assert isinstance(caught.value, openai.RateLimitError)


def test_retries_are_the_transports(emulator: Emulator) -> None:
    emulator.add_fault(Fault("status", status=500, path="/v1/embeddings", headers={"retry-after-ms": "1"}))

    KlusterEmbeddings(api_key="key", base_url=emulator.base_url, max_retries=1).embed_query("x")

    assert len(emulator.requests) == 2


def test_order_is_by_index(server: RawServer) -> None:
    server.script(vectors((1, [0.0, 1.0]), (0, [1.0, 0.0])))

    assert of(server).embed_documents(["a", "b"]) == [[1.0, 0.0], [0.0, 1.0]]


def test_base64_and_whole_numbers_are_floats(server: RawServer) -> None:
    packed = base64.b64encode(struct.pack("<3f", 0.5, -2.0, 1e-3)).decode()
    server.script(vectors((0, packed)), vectors((0, [1, 0, -2])))

    assert of(server).embed_query("a") == pytest.approx([0.5, -2.0, 1e-3])
    assert [type(number) for number in of(server).embed_query("a")] == [float] * 3


@pytest.mark.parametrize(
    "reply",
    [vectors((0, [1.0])), vectors((0, [1.0]), (1, [])), vectors((0, [1.0]), (1, "?")), vectors((0, [1.0]), (1, None))],
    ids=["one missing", "empty", "not base64", "null"],
)
def test_an_answer_that_does_not_fit_is_an_error(server: RawServer, reply: Reply) -> None:
    server.script(reply)

    with pytest.raises(KlusterInternalServerError):
        of(server).embed_documents(["a", "b"])


def test_default_headers_are_sent(server: RawServer) -> None:
    seen: list[RawRequest] = []
    server.answer = lambda request: (seen.append(request), vectors((0, [1.0])))[1]

    of(server, default_headers={"x-team": "search"}).embed_query("a")

    assert seen[0].headers["x-team"] == "search"


def test_a_pickle_holds_no_key(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    pickled = pickle.dumps(KlusterEmbeddings(api_key="sekret", base_url=emulator.base_url, chunk_size=7))
    monkeypatch.setenv("KLUSTER_API_KEY", "from-env")

    assert b"sekret" not in pickled
    restored = pickle.loads(pickled)
    assert restored.chunk_size == 7
    assert len(restored.embed_query("x")) == 1024


async def test_a_vector_store_finds_the_right_text(embeddings: Callable[..., KlusterEmbeddings]) -> None:
    store = InMemoryVectorStore(embeddings())
    await store.aadd_texts(TEXTS)

    assert store.similarity_search("Where did the cat sit?", k=1)[0].page_content in TEXTS[:2]
    assert (await store.asimilarity_search("physics", k=1))[0].page_content == TEXTS[2]


def test_similar_texts_are_near(embeddings: Callable[..., KlusterEmbeddings]) -> None:
    cat, other_cat, physics, *_ = embeddings().embed_documents(TEXTS)

    assert cosine(cat, other_cat) > cosine(cat, physics)
