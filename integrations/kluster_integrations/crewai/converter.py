"""`KlusterConverter`, for crews with `output_json`, which CrewAI would convert with another client."""

from __future__ import annotations

from typing import Any

from crewai.utilities.converter import Converter
from pydantic import BaseModel, ValidationError

from kluster_integrations.core.client import find_json

__all__ = ["KlusterConverter"]


class KlusterConverter(Converter):
    """Converts answers to objects and JSON with the agent's LLM: `Task(output_json=…, converter_cls=KlusterConverter)`.

    CrewAI's own class does this for `output_pydantic`. For `output_json` it uses another client, which cannot reach
    kluster.ai. With ReAct agents it encodes the answer twice (crewAI issue 7429).
    """

    def to_pydantic(self, current_attempt: int = 1) -> BaseModel:
        """Return the object in the text; if there is none, the LLM makes one from it."""
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
        """Return the object if the text already contains it."""
        model: type[BaseModel] = self.model
        try:
            return model.model_validate(find_json(self.text))
        except ValidationError:
            return None
