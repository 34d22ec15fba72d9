"""inspect_ai: an evaluation of one task over all questions, with its leanest log; the solver keeps the verdicts.

python -P inspect_ai.py URL REQUESTS.jsonl IN_FLIGHT
"""

import json
import sys
import tempfile

from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser
from inspect_ai.solver import Generate, Solver, TaskState, solver

TURNS = {"system": ChatMessageSystem, "user": ChatMessageUser}
LEAN = {
    "display": "none",
    "log_level": "error",
    "log_samples": False,
    "log_realtime": False,
    "log_model_api": False,
    "log_images": False,
}


@solver
def judge(verdicts: list[str]) -> Solver:
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        state = await generate(state)
        verdicts.append(state.output.completion)
        return state

    return solve


def main(url: str, path: str, in_flight: int) -> None:
    with open(path, encoding="utf-8") as file:
        requests = [json.loads(line) for line in file]
    samples = [Sample(input=[TURNS[turn["role"]](content=turn["content"]) for turn in each]) for each in requests]
    verdicts: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        eval(
            Task(dataset=MemoryDataset(samples), solver=judge(verdicts)),
            model="openai-api/mock/mock-judge",
            model_base_url=f"{url}/v1",
            model_args={"api_key": "any"},
            max_connections=in_flight,
            max_samples=in_flight,
            temperature=0.0,
            top_p=1.0,
            max_tokens=512,
            score=False,
            fail_on_error=False,
            log_dir=folder,
            **LEAN,
        )
    print(sum(map(bool, verdicts)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
