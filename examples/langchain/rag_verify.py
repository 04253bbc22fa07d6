"""Retrieval with a check: is what the model says in the text that was found?

Run it with `python -m examples.langchain.rag_verify`.
"""

from examples._service import service
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from kluster_integrations.langchain import ChatKluster, KlusterEmbeddings, Verify

NOTES = [
    "The capital of France is Paris.",
    "Sourdough bread rises by wild yeast and needs a night to prove.",
    "Honey bees tell each other by a dance where the flowers are.",
]
PROMPT = ChatPromptTemplate([("system", "Answer from these notes only:\n{context}"), ("user", "{prompt}")])


def main() -> None:
    store = InMemoryVectorStore(KlusterEmbeddings())
    store.add_texts(NOTES)
    answer = PROMPT | ChatKluster(model="mistralai/Mistral-Nemo-Instruct-2407", temperature=0) | StrOutputParser()
    notes = store.as_retriever(search_kwargs={"k": 1}) | (lambda found: "\n".join(d.page_content for d in found))
    chain = (
        {"prompt": RunnablePassthrough(), "context": notes}
        | RunnablePassthrough.assign(output=answer)
        | RunnablePassthrough.assign(verdict=Verify())
    )
    result = chain.invoke("How do honey bees tell where flowers are?")
    print("Retrieved:", result["context"])
    print("Answer:   ", result["output"])
    print("Reliable: ", result["verdict"].reliable, result["verdict"].explanation)

    # Somebody else's answer is held against the same notes.
    made_up = Verify(prompt="What is the capital of France?", context=NOTES[0]).invoke("It is Lyon, since 1850.")
    print("Made up:  ", made_up.reliable, made_up.explanation)


#: What the emulator answers, without a key: to the question, and to what is checked.
REPLIES = [
    {"text": "They dance.", "when": "How do honey bees"},
    {"json": {"is_hallucination": False, "explanation": "The notes say so."}, "when": "They dance."},
    {"json": {"is_hallucination": True, "explanation": "The notes say Paris."}, "when": "It is Lyon"},
]

if __name__ == "__main__":
    with service(*REPLIES):
        main()
