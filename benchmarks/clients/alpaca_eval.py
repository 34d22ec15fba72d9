"""alpaca_eval: a PairwiseAnnotator with a configuration of its own, as many threads as calls may be in flight, one chunk,
no cache file.

Its template puts two columns into a prompt; here these are the halves of a question, so that it asks what the others ask.

python -P alpaca_eval.py URL REQUESTS.jsonl IN_FLIGHT
"""

import json
import logging
import os
import sys
import tempfile
from pathlib import Path

import yaml

TEMPLATE = """<|im_start|>system
{instruction}
<|im_end|>
<|im_start|>user
{output_1}{output_2}
<|im_end|>
"""
JUDGE = {
    "prompt_template": "judge/template.txt",
    "fn_completions": "openai_completions",
    "completions_kwargs": {
        "model_name": "mock-judge",
        "max_tokens": 512,
        "temperature": 0.0,
        "top_p": 1.0,
        "price_per_token": 0.0,
    },
    "fn_completion_parser": "regex_parser",
    "completion_parser_kwargs": {"outputs_to_match": {1: r"\[\[A\]\]", 2: r"\[\[B\]\]", 1.5: r"\[\[C\]\]"}},
    "batch_size": 1,
    "is_randomize_output_order": False,
}


def main(url: str, path: str, in_flight: int) -> None:
    with open(path, encoding="utf-8") as file:
        rows = [row(json.loads(line)) for line in file]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        configure(folder, url)
        os.environ |= {
            "OPENAI_CLIENT_CONFIG_PATH": str(folder / "clients.yaml"),
            "OPENAI_MAX_CONCURRENCY": str(in_flight),
        }
        from alpaca_eval.annotators import PairwiseAnnotator  # reads the environment

        logging.getLogger().setLevel(logging.WARNING)
        annotator = PairwiseAnnotator(
            annotators_config="judge", base_dir=folder, caching_path=None, is_avoid_reannotations=False
        )
        annotated = annotator.annotate_pairs(rows, chunksize=None)
    print(sum(each["preference"] is not None for each in annotated))


def row(messages: list[dict]) -> dict:
    system, user = (turn["content"] for turn in messages)
    half = len(user) // 2
    return {"instruction": system, "output_1": user[:half], "output_2": user[half:]}


def configure(folder: Path, url: str) -> None:
    (folder / "judge").mkdir()
    (folder / "judge" / "template.txt").write_text(TEMPLATE)
    (folder / "judge" / "configs.yaml").write_text(yaml.safe_dump({"judge": JUDGE}))
    (folder / "clients.yaml").write_text(yaml.safe_dump({"default": [{"api_key": "any", "base_url": f"{url}/v1"}]}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
