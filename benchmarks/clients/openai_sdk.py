"""The official client, one task for each call under a semaphore, as its documentation shows.

python openai_sdk.py URL REQUESTS.jsonl IN_FLIGHT
"""

import asyncio
import json
import sys

from openai import AsyncOpenAI


async def main(url: str, path: str, in_flight: int) -> None:
    with open(path, encoding="utf-8") as file:  # noqa: ASYNC230
        requests = [json.loads(line) for line in file]
    gate = asyncio.Semaphore(in_flight)
    async with AsyncOpenAI(
        base_url=f"{url}/v1", api_key="any", timeout=120
    ) as client:  # to connect, too: 5 s by default

        async def one(messages: list) -> str:
            async with gate:
                reply = await client.chat.completions.create(
                    model="mock-judge", messages=messages, temperature=0.0, top_p=1.0, max_tokens=512
                )
            return reply.choices[0].message.content or ""

        verdicts = await asyncio.gather(*map(one, requests))
    print(len(verdicts))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
