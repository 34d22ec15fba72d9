"""prometheus-eval: its AsyncLiteLLM, in batches of as many prompts as may be in flight, its limit out of the way.

It sends no sampling parameters, whatever it is given. A larger batch has more calls in flight than asked for and prepares all of
them before it sends the first: quicker by the server's clock, and not in CPU time.

python -P prometheus_eval.py URL REQUESTS.jsonl IN_FLIGHT
"""

import asyncio
import json
import os
import sys

os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENAI_API_KEY": "any"}  # the map: else it is downloaded

from prometheus_eval.litellm import AsyncLiteLLM


def main(url: str, path: str, in_flight: int) -> None:
    with open(path, encoding="utf-8") as file:
        requests = [json.loads(line) for line in file]
    limits = {"batch_size": in_flight, "requests_per_minute": 1_000_000_000}
    model = AsyncLiteLLM("openai/mock-judge", api_base=f"{url}/v1", **limits)
    print(sum(map(bool, asyncio.run(model.completions(requests)))))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
