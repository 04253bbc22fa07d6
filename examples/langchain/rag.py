"""Retrieval: KlusterEmbeddings find the text that answers a question, a chat model answers from it.

Run it with `python -m examples.langchain.rag`.
"""

from examples._service import service
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.vectorstores import InMemoryVectorStore

from kluster_integrations.langchain import ChatKluster, KlusterEmbeddings

NOTES = [
    "The Golden Gate Bridge opened in 1937 and is painted in international orange.",
    "Sourdough bread rises by wild yeast and needs a night to prove.",
    "The Antikythera mechanism is a hand-powered model of the solar system.",
    "Honey bees tell each other by a dance where the flowers are.",
]
PROMPT = ChatPromptTemplate(
    [
        ("system", "Answer from these notes only:\n{notes}"),
        ("user", "{question}"),
    ]
)


def main() -> None:
    store = InMemoryVectorStore(KlusterEmbeddings())
    store.add_texts(NOTES)
    chain = PROMPT | ChatKluster(model="mistralai/Mistral-Nemo-Instruct-2407", temperature=0) | StrOutputParser()

    for question in ("How do bees tell where flowers are?", "When did the Golden Gate Bridge open?"):
        found = store.similarity_search(question, k=1)[0].page_content
        print("Question: ", question)
        print("Retrieved:", found)
        print("Answer:   ", chain.invoke({"notes": found, "question": question}))


#: What the emulator answers, without a key.
REPLIES = [
    {"text": "They dance.", "when": "How do bees"},
    {"text": "In 1937.", "when": "When did the Golden Gate"},
]

if __name__ == "__main__":
    with service(*REPLIES):
        main()
