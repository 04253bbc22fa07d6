"""Leaves out what cannot run here: with openai 3.x there is no LiteLLM that works."""

from __future__ import annotations

import os

from kluster_integrations.litellm import _versions

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
VERSION = _versions.installed()
if VERSION is None or _versions.problem(VERSION):
    collect_ignore = ["test_litellm_openai.py"]
