"""Vercel's AI SDK: a JavaScript module."""

from __future__ import annotations

import json

from kluster_integrations.cli.clients._target import Choice, Target, comment, proxy_note

__all__ = ["MASTRA", "TARGET"]

_PROVIDER = """\
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";

export const kluster = createOpenAICompatible({
  name: "kluster",
  baseURL: %(base_url)s,
  apiKey: process.env.%(key)s,
"""
_FITTED = """\
  // kluster.ai takes no stream_options and no response_format, and calls max_tokens deprecated.
  includeUsage: false,
  supportsStructuredOutputs: true, // so that the schema gets to where it is put into the prompt
  transformRequestBody: ({ max_tokens, response_format, ...body }) => ({
    ...body,
    ...(max_tokens === undefined ? {} : { max_completion_tokens: max_tokens }),
    messages: asked(body.messages, response_format),
  }),
"""
_ASKED = """\

function asked(messages, format) {
  if (!format) return messages;
  const schema = JSON.stringify(format.json_schema?.schema ?? { type: "object" });
  const content = `Answer with one JSON object and nothing else. It fits this JSON schema:\\n${schema}`;
  return [{ role: "system", content }, ...messages];
}
"""
_REST = """\
});

export const models = %(models)s;
export const model = kluster(%(default)s);
"""


_HEAD = """
kluster.ai in the AI SDK 7, written by `kluster export ai-sdk`: import { model } from "./kluster.mjs"

  npm install ai @ai-sdk/openai-compatible
"""
_TOOLS = "Models that take tools: {models}; through the gateway (--gateway) all do."
_PROXIED = "  includeUsage: true,\n  supportsStructuredOutputs: true,\n"


_MASTRA_HEAD = """
kluster.ai in Mastra, written by `kluster export mastra`: import { agent } from "./kluster.mjs"

  npm install @mastra/core
"""
_MASTRA = """\
import { Agent } from "@mastra/core/agent";

export const models = %(models)s;

export const kluster = (id = %(default)s) => ({
  id: `kluster/${id}`,
  url: %(base_url)s,
  apiKey: process.env.%(key)s ?? "any",
});

export const agent = new Agent({
  id: "kluster",
  name: "kluster",
  instructions: "Be a helpful assistant.",
  model: kluster(),
});
"""


def _render(choice: Choice) -> str:
    with_tools = ", ".join(spec.id for spec in choice.specs if spec.supports_tools)
    note = "" if choice.proxied else _TOOLS.format(models=with_tools or "none")
    parts = [_PROVIDER, _PROXIED, _REST] if choice.proxied else [_PROVIDER, _FITTED, _REST, _ASKED]
    return (
        comment(_HEAD, proxy_note(choice), note, mark="//") + "\n" + "".join(part % _values(choice) for part in parts)
    )


def _mastra(choice: Choice) -> str:
    return comment(_MASTRA_HEAD, proxy_note(choice), mark="//") + "\n" + _MASTRA % _values(choice)


def _values(choice: Choice) -> dict[str, str]:
    return {
        "base_url": json.dumps(choice.base_url),
        "key": choice.key_variable,
        "models": json.dumps([spec.id for spec in choice.specs], indent=2),
        "default": json.dumps(choice.default.id),
    }


TARGET = Target(
    name="ai-sdk",
    file="JavaScript module for Vercel's AI SDK",
    fit="fits",
    tried="ai 7.0.173 and @ai-sdk/openai-compatible 3.0.92",
    render=_render,
)
MASTRA = Target(
    name="mastra",
    file="JavaScript module for Mastra",
    fit="sends stream_options, so through the gateway",
    tried="@mastra/core 0.24.9",
    untried="Mastra 1, which wants Node.js 22",
    render=_mastra,
    needs_gateway=True,
)
