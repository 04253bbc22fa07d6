"""A proxy for a team: one key of kluster.ai behind it, a key and a budget for each member in front.

Run it with `python -m examples.litellm.team`. LiteLLM's router chooses the model behind each name.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
from examples._service import service

from kluster_integrations import budget
from kluster_integrations.errors import BudgetExceededError, KlusterError
from kluster_integrations.litellm import router

BUDGETS = {"key-of-ada": budget(usd=0.01), "key-of-bob": budget(usd=0.00001)}
MODELS = {
    "fast": "kluster/klusterai/Meta-Llama-3.1-8B-Instruct-Turbo",
    "good": "kluster/klusterai/Meta-Llama-3.3-70B-Instruct-Turbo",
}


class Proxy(BaseHTTPRequestHandler):
    """Answers `POST /v1/chat/completions`, on the budget of the key that asks."""

    def do_POST(self) -> None:
        wallet = BUDGETS.get(self.headers.get("authorization", "").removeprefix("Bearer "))
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if wallet is None:
            return self.answer(401, {"error": {"message": "This key is not of the team."}})
        try:
            with wallet:
                done = self.server.router.completion(model=request["model"], messages=request["messages"])
        except BudgetExceededError as err:
            return self.answer(402, {"error": {"message": err.message.splitlines()[0]}})
        except KlusterError as err:
            return self.answer(err.status_code or 502, {"error": {"message": err.message}})
        return self.answer(200, done.model_dump())

    def answer(self, status: int, body: dict) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Keep stderr quiet."""


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    names = [{"model_name": name, "litellm_params": {"model": model}} for name, model in MODELS.items()]
    server.router = router(MODELS.values(), model_list=names)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for key, model in [("key-of-ada", "good"), ("key-of-bob", "fast"), ("key-of-bob", "good"), ("key-of-eve", "fast")]:
        url = f"http://127.0.0.1:{server.server_port}/v1"
        client = openai.OpenAI(base_url=url, api_key=key, max_retries=0)
        question = [{"role": "user", "content": "What makes a good breakfast sandwich? " + "Think of the bread. " * 8}]
        try:
            answer = client.chat.completions.create(model=model, messages=question)
            print(f"{key}: {answer.choices[0].message.content[:60]}")
        except openai.APIStatusError as err:
            print(f"{key}: HTTP {err.status_code}: {err.body['message']}")
    for key, wallet in BUDGETS.items():
        print(f"{key} has spent US$ {wallet.usd:.6f} of {wallet.limit_usd}")
    server.shutdown()


if __name__ == "__main__":
    with service():
        main()
