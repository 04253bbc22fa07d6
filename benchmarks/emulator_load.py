"""How long the emulator takes to answer large requests, and whether others are answered meanwhile.

`make bench-emulator` runs it. A coding agent's request has 28 kB with 8 tools, a crew's task has 300 kB. The time grows
with the size, and no faster: the last column, milliseconds per 100 kB, stays about the same.
"""

from __future__ import annotations

import json
import threading
import time
from statistics import median
from typing import Any

import httpx

from kluster_integrations.emulator import Emulator

MODEL = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
TOOLS = 8
SIZES = (28, 75, 150, 300)  # kB
LIMITS = {28: 100.0, 300: 500.0}  # ms
ROUNDS = 9
SENTENCE = (
    "The function `read_config(path)` opens the file, reads each line, and returns what it finds in Paris or Rome. "
)


def tools() -> list[dict[str, Any]]:
    fields = {name: {"type": "string", "description": f"The {name} to use."} for name in ("path", "text", "pattern")}
    fields["options"] = {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}}
    parameters = {"type": "object", "properties": fields, "required": list(fields)}
    described = [(f"tool_{number}", SENTENCE * 3) for number in range(TOOLS)]
    return [
        {"type": "function", "function": {"name": name, "description": text, "parameters": parameters}}
        for name, text in described
    ]


def body(kilobytes: int, *, prompted: bool, called: bool) -> bytes:
    """Return a request of about that size; its tools native or in the prompt, its tool called already or not."""
    system = "You are a coding agent.\n"
    if prompted:
        system += "<tools>\n" + "\n".join(map(json.dumps, tools())) + "\n</tools>\n<schema>\n{}\n</schema>"
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}, {"role": "user", "content": ""}]
    if called and not prompted:
        call = {"id": "c", "type": "function", "function": {"name": "tool_0", "arguments": "{}"}}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": "c", "content": ""})
    request = {"model": MODEL, "messages": messages, **({} if prompted else {"tools": tools()})}
    room = 1_000 * kilobytes - len(json.dumps(request))
    messages[-1]["content"] = (SENTENCE * (room // len(SENTENCE) + 1))[:room]
    return json.dumps(request).encode()


def timed(client: httpx.Client, data: bytes) -> float:
    """Return the milliseconds that an answer takes."""
    begun = time.perf_counter()
    answer = client.post("/chat/completions", content=data)
    assert answer.status_code == 200, answer.text
    return 1_000 * (time.perf_counter() - begun)


def meanwhile(client: httpx.Client, url: str, data: bytes) -> float:
    """Return the longest wait in milliseconds for `/v1/models` while large requests are answered."""
    waits: list[float] = []
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, headers=dict(client.headers), trust_env=False) as other:
            while not done.is_set():
                begun = time.perf_counter()
                assert other.get("/models").status_code == 200
                waits.append(1_000 * (time.perf_counter() - begun))

    thread = threading.Thread(target=ask)
    thread.start()
    while len(waits) < 2 * ROUNDS:
        timed(client, data)
    done.set()
    thread.join()
    return max(waits)


def main() -> int:
    failed = 0
    print(f"{'request':34} {'kB':>4} {'ms':>7} {'/v1/models meanwhile, ms':>25} {'ms per 100 kB':>14}")
    with Emulator() as server, httpx.Client(base_url=server.base_url, trust_env=False, timeout=120) as client:
        client.headers["authorization"] = "Bearer any"
        for kind in (
            {"prompted": False, "called": False},
            {"prompted": False, "called": True},
            {"prompted": True, "called": True},
        ):
            name = (
                ("prompted" if kind["prompted"] else "native")
                + " tools, "
                + ("a result" if kind["called"] else "a question")
            )
            for size in SIZES:
                data = body(size, **kind)
                took = median(timed(client, data) for _ in range(ROUNDS))
                wait = meanwhile(client, server.base_url, data)
                over = took > LIMITS.get(size, float("inf"))
                failed += over
                mark = f"  more than {LIMITS[size]:.0f}" if over else ""
                print(f"{name:34} {size:>4} {took:>7.1f} {wait:>25.1f} {100 * took / size:>14.1f}{mark}")
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
