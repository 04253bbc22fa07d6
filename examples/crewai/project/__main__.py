"""Run it with `python -m examples.crewai.project`."""

from examples._service import service
from examples.crewai.project import Greeting

if __name__ == "__main__":
    with service():
        output = Greeting().crew().kickoff(inputs={"number": 7})
        for done in output.tasks_output:
            print(f"{done.agent}: {done.raw}")
