"""Programs whose settings are typed in: the steps, and nothing to save."""

from __future__ import annotations

from collections.abc import Callable

from kluster_integrations.cli.clients._target import Choice, Target, proxy_note

__all__ = ["IMMERSIVE_TRANSLATE", "MSTY", "TYPINGMIND"]


def _common(choice: Choice, program: str, name: str) -> list[str]:
    lines = [f"kluster.ai in {program}, written by `kluster export {name}`."]
    return lines + [line.strip() for line in proxy_note(choice).splitlines() if line.strip()]


def _key(choice: Choice) -> str:
    return f"what {choice.key_variable} holds" + (
        ", or anything if it is not set" if choice.between == "gateway" else ""
    )


def _origin(choice: Choice, who: str, origin: str, *more: str) -> list[str]:
    """Return how the gateway lets in what asks from a browser."""
    if choice.between != "gateway":
        return []
    return [f"{who} asks from the browser: start the gateway with a key, or with --allow-origin {origin}", *more]


def _rate(choice: Choice) -> int | None:
    return choice.limits.requests_per_minute if choice.limits else None


def _plan(choice: Choice) -> list[str]:
    """Return how the plan's rate is kept."""
    rate = _rate(choice)
    if rate is None:
        return []
    by = "; `kluster gateway --plan …` keeps that for all programs" if choice.between == "gateway" else ""
    return [f"The plan allows {rate} requests per minute{by}."]


def _msty(choice: Choice) -> list[str]:
    models = ", ".join(spec.id for spec in choice.specs)
    return [
        *_common(choice, "Msty", "msty"),
        "1. Settings, Model Providers (Msty 1: Remote Model Providers), Add Provider: OpenAI Compatible.",
        f"2. Name kluster.ai. API Endpoint (Base URL) {choice.base_url}. API Key: {_key(choice)}.",
        f"3. Fetch Models, or type them: {models}.",
        f"4. Choose {choice.default.id} in a new chat.",
        *_plan(choice),
    ]


def _typingmind(choice: Choice) -> list[str]:
    lines = []
    for spec in choice.specs:
        able = [("plugins (tools)", spec.supports_tools or choice.proxied), ("image input", spec.supports_vision)]
        has = ", ".join(name for name, on in able if on) or "no further ability"
        lines.append(f"   {spec.id}: context length {spec.context_window}, {has}")
    return [
        *_common(choice, "TypingMind", "typingmind"),
        # Chrome 142 and later: without the permission no request reaches this machine, whatever the server allows.
        *_origin(
            choice,
            "TypingMind",
            "https://www.typingmind.com",
            "Allow the page what the browser then asks: to connect to apps on this device (to the local network).",
        ),
        "1. Models, Add Custom Model, Create Manually. API Type: OpenAI Chat Completions (or: Compatible) API.",
        f"2. Endpoint: {choice.base_url}/chat/completions",
        "3. Authentication Type: No authentication. Advanced, Custom Headers: Authorization.",
        f"   Its value: Bearer and the key ({_key(choice)}).",
        "4. Model ID, context length and abilities, one of:",
        *lines,
        "5. Test, then Add Model.",
        *_plan(choice),
    ]


# The extension's ids in the stores of Chrome and of Edge.
_IN_CHROME = "chrome-extension://bpoadfkcbjbfhfodiogcnhhhpibjhbnh"
_IN_EDGE = "chrome-extension://amkbmndfnliijdhojkpoglbnaaahippg"


def _immersive_translate(choice: Choice) -> list[str]:
    rate = _rate(choice)
    per_second = max(1, rate // 60) if rate else 5
    small = choice.prefer("klusterai/Meta-Llama-3.1-8B-Instruct-Turbo")
    others = ", ".join(spec.id for spec in choice.specs if spec is not small)
    return [
        *_common(choice, "Immersive Translate", "immersive-translate"),
        *_origin(
            choice,
            "The extension",
            _IN_CHROME,
            f"(Edge: {_IN_EDGE}). In Firefox its origin differs per profile: give the gateway a key there.",
        ),
        "1. Settings, Translation Services. At the bottom:",
        "   'Add Custom AI Translation Service Compatible with OpenAI Interface?'.",
        f"2. Custom API Endpoint: {choice.base_url}/chat/completions. API Key: {_key(choice)}.",
        f"3. Model, a custom name: {small.id}." + (f" Others: {others}." if others else ""),
        f"4. Advanced, maximum requests per second: {per_second}.",
        "5. Maximum paragraphs per request: 6 or fewer, for answers that are not cut.",
        "6. Test the service, and choose it for translations.",
        *_plan(choice),
    ]


def _target(name: str, program: str, steps: Callable[[Choice], list[str]]) -> Target:
    return Target(
        name=name,
        file=f"steps for {program}",
        fit="sends fields of its own, so through the gateway",
        tried="",
        untried=f"{program}; the steps are of its documentation",
        render=lambda choice: "\n".join(steps(choice)) + "\n",
        steps=steps,
        needs_gateway=True,
    )


MSTY = _target("msty", "Msty", _msty)
TYPINGMIND = _target("typingmind", "TypingMind", _typingmind)
IMMERSIVE_TRANSLATE = _target("immersive-translate", "Immersive Translate", _immersive_translate)
