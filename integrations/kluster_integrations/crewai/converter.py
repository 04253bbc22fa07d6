"""`KlusterConverter`, for the few crews whose JSON answers CrewAI would turn into JSON by other means."""

from __future__ import annotations

from typing import Any

from crewai.utilities.converter import Converter
from pydantic import BaseModel, ValidationError

from kluster_integrations.core.client import find_json

__all__ = ["KlusterConverter"]


class KlusterConverter(Converter):
    """Makes objects and JSON of answers with the agent's LLM: `Task(output_json=…, converter_cls=KlusterConverter)`.

    CrewAI's own class does this for `output_pydantic`. For `output_json` it does not use the LLM but another client,
    which cannot reach kluster.ai, or, with ReAct agents, encodes the answer twice (crewAI issue 7429).
    """

    def to_pydantic(self, current_attempt: int = 1) -> BaseModel:
        """Return the object that the text holds, or that the LLM makes of it."""
        return self._held() or super().to_pydantic(current_attempt)

    async def ato_pydantic(self, current_attempt: int = 1) -> BaseModel:
        """As `to_pydantic`."""
        return self._held() or await super().ato_pydantic(current_attempt)

    def to_json(self, current_attempt: int = 1) -> Any:
        """Return the object as JSON."""
        return self.to_pydantic(current_attempt).model_dump_json()

    async def ato_json(self, current_attempt: int = 1) -> Any:
        """As `to_json`."""
        return (await self.ato_pydantic(current_attempt)).model_dump_json()

    def _held(self) -> BaseModel | None:
        """Return the object if the text holds it already."""
        model: type[BaseModel] = self.model
        try:
            return model.model_validate(find_json(self.text))
        except ValidationError:
            return None
