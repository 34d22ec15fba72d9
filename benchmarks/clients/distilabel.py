"""distilabel: a pipeline with one ChatGeneration task, in batches of as many rows as may be in flight, without a cache.

python -P distilabel.py URL REQUESTS.jsonl IN_FLIGHT
"""

import json
import sys
import tempfile

from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import ChatGeneration

SAMPLING = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 512}


def main(url: str, path: str, in_flight: int) -> None:
    with open(path, encoding="utf-8") as file:
        rows = [{"messages": json.loads(line)} for line in file]
    llm = OpenAILLM(model="mock-judge", base_url=f"{url}/v1", api_key="any", generation_kwargs=SAMPLING)
    with tempfile.TemporaryDirectory() as cache:
        with Pipeline(name="judging", cache_dir=cache) as pipeline:
            load = LoadDataFromDicts(data=rows, batch_size=in_flight)
            judge = ChatGeneration(llm=llm, input_batch_size=in_flight, add_raw_input=False, add_raw_output=False)
            load >> judge
        found = pipeline.run(use_cache=False)
        print(sum(map(bool, found["default"]["train"]["generation"])))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
