"""A crew of one that greets in a new way each time, as in kluster.ai's guide.

Run it with `python -m examples.crewai.hello [--model ID]`.
"""

import random

from crewai import Agent, Crew, Task
from examples._service import model_option, service

from kluster_integrations.crewai import kluster_llm


def main(model: str) -> None:
    greeter = Agent(
        role="Greeter",
        goal="Greet everyone in a way of their own",
        backstory="You have greeted people all over the world, and never twice in the same way.",
        llm=kluster_llm(model, temperature=1),
    )
    greet = Task(
        description="Greet the reader in an uncommon way; take the number {number} as inspiration.",
        expected_output="One short greeting",
        agent=greeter,
    )
    output = Crew(agents=[greeter], tasks=[greet]).kickoff(inputs={"number": random.randint(1, 1_000_000)})
    print("Greeting:", output.raw)
    print("Tokens:  ", output.token_usage.total_tokens)


if __name__ == "__main__":
    chosen = model_option("klusterai/Meta-Llama-3.3-70B-Instruct-Turbo")
    with service({"text": "Ahoy, reader of large numbers!"}):
        main(chosen)
