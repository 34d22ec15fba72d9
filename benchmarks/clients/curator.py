"""curator: an LLM over a list of rows on its OpenAI backend, limits out of the way, without telemetry, display and cache.

python -P curator.py URL REQUESTS.jsonl IN_FLIGHT
"""

import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path

LITELLM = Path(importlib.util.find_spec("litellm").origin).parent
os.environ |= {
    "TELEMETRY_ENABLED": "0",
    "CURATOR_DISABLE_RICH_DISPLAY": "1",
    "CURATOR_DISABLE_CACHE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "TIKTOKEN_CACHE_DIR": str(LITELLM / "litellm_core_utils" / "tokenizers"),  # else it is downloaded
}

from bespokelabs import curator  # noqa: E402  (reads the environment)


class Judge(curator.LLM):
    def prompt(self, input: dict) -> list:
        return input["messages"]

    def parse(self, input: dict, response: str) -> dict:
        return {"verdict": response}


def main(url: str, path: str, in_flight: int) -> None:
    with open(path, encoding="utf-8") as file:
        rows = [{"messages": json.loads(line)} for line in file]
    judge = Judge(
        model_name="mock-judge",
        backend="openai",
        generation_params={"temperature": 0.0, "top_p": 1.0, "max_tokens": 512},
        backend_params={
            "base_url": f"{url}/v1",
            "max_concurrent_requests": in_flight,
            "max_requests_per_minute": 10_000_000,
            "max_tokens_per_minute": 100_000_000_000,
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        print(sum(map(bool, judge(rows, working_dir=folder).dataset["verdict"])))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
