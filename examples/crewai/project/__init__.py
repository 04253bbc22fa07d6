"""A CrewAI project in YAML; its agents name their LLM."""

from crewai import Agent, Crew, Task
from crewai.project import CrewBase, agent, crew, llm, task

from kluster_integrations.crewai import KlusterLLM, kluster_llm

__all__ = ["Greeting"]


@CrewBase
class Greeting:
    """Two agents, each on a model of its own."""

    @llm
    def llama(self) -> KlusterLLM:
        return kluster_llm("klusterai/Meta-Llama-3.3-70B-Instruct-Turbo", temperature=1)

    @llm
    def r1(self) -> KlusterLLM:
        return kluster_llm("deepseek-ai/DeepSeek-R1")

    @agent
    def greeter(self) -> Agent:
        return Agent(config=self.agents_config["greeter"])

    @agent
    def reviewer(self) -> Agent:
        return Agent(config=self.agents_config["reviewer"])

    @task
    def greet(self) -> Task:
        return Task(config=self.tasks_config["greet"])

    @task
    def review(self) -> Task:
        return Task(config=self.tasks_config["review"])

    @crew
    def crew(self) -> Crew:
        return Crew(agents=self.agents, tasks=self.tasks)
