"""A crew with memory and knowledge on kluster.ai's vectors: no other key is needed.

Run it with `python -m examples.crewai.memory`.
"""

import os
import tempfile

from crewai import Agent, Crew, Task
from crewai.knowledge.source.string_knowledge_source import StringKnowledgeSource
from crewai.memory.unified_memory import Memory
from examples._service import service

from kluster_integrations.crewai import kluster_embedder, kluster_llm

FACTS = "The city library in Lisbon opens at nine. Its cafe is closed on Mondays."
#: What the emulator answers, without a key: the task, and what is worth remembering of it.
REPLIES = [
    {"text": "The library opens at nine.", "when": "Current Task: When does the library open?"},
    {"json": {"memories": ["The library opens at nine."]}, "when": "Extract memory statements"},
]


def main() -> None:
    llm = kluster_llm("klusterai/Meta-Llama-3.3-70B-Instruct-Turbo")
    librarian = Agent(role="Librarian", goal="Answer visitors", backstory="You know your library.", llm=llm)
    memory = Memory(llm=llm, embedder=kluster_embedder())  # with memory=True CrewAI 1.14 would ask OpenAI what to keep
    crew = Crew(
        agents=[librarian],
        tasks=[Task(description="{question}", expected_output="A sentence", agent=librarian)],
        knowledge_sources=[StringKnowledgeSource(content=FACTS)],
        memory=memory,
        embedder=kluster_embedder(),  # of the knowledge
        planning=True,
        planning_llm=llm,
    )
    print("Answer:", crew.kickoff(inputs={"question": "When does the library open?"}).raw)
    memory.drain_writes()  # they are written in the background
    for match in memory.recall("library", depth="shallow"):
        print("Remembered:", match.record.content)


if __name__ == "__main__":
    with service(*REPLIES), tempfile.TemporaryDirectory() as folder:
        os.environ["CREWAI_STORAGE_DIR"] = folder
        main()
