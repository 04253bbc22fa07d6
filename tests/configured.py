"""What the tests of the configuration share: a key, and how a configuration shows it or is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from kluster_integrations.config import KlusterConfig

KEY = "kk-the-key-of-this-test"


def key_of(config: KlusterConfig) -> str | None:
    return config.api_key.get_secret_value() if config.api_key else None


def refusal(**values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        KlusterConfig(**values)
    return str(caught.value)
