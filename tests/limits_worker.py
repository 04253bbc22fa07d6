"""A process of its own that sends requests under shared limits, all at once; prints what became of each.

Arguments: the base URL, JSON of the fields of `Limits`, how many requests. `hold` as a fourth lets it keep a slot until
it is killed.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from kluster_integrations import limits
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.transport import CHAT_PATH, Transport
from kluster_integrations.errors import RateLimitError


def main(base_url: str, fields: str, count: str, hold: str = "") -> None:
    config = KlusterConfig(api_key="the-one-key", base_url=base_url)
    limiter = limits.shared(limits.Limits(**json.loads(fields)), config)
    assert limiter is not None
    if hold:
        limiter.enter()
        print("held", flush=True)
        time.sleep(600)
    transport = Transport(config)

    def send(_: int) -> str:
        try:
            with limits.admitted(limiter):
                transport.post(CHAT_PATH, {"model": "m", "messages": []}, max_retries=0)
        except RateLimitError as err:
            return "refused" if "Nothing was sent" in err.message else "429"
        return "answered"

    with ThreadPoolExecutor(int(count)) as pool:
        print(json.dumps(list(pool.map(send, range(int(count))))))


if __name__ == "__main__":
    main(*sys.argv[1:])
