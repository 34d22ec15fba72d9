"""Bare aiohttp and orjson: the least that bodies, calls and replies can cost.

python raw.py URL REQUESTS.jsonl IN_FLIGHT [uvloop]
"""

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import aiohttp
import orjson

HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer any"}


async def main(url: str, path: str, in_flight: int) -> None:
    with open(path, "rb") as file:  # noqa: ASYNC230
        requests = [orjson.loads(line) for line in file]
    verdicts: list[str] = []
    waiting: Iterator[Any] = iter(requests)
    connector = aiohttp.TCPConnector(limit=in_flight)
    async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:

        async def worker() -> None:
            for messages in waiting:
                body = {
                    "model": "mock-judge",
                    "messages": messages,
                    "temperature": 0.0,
                    "top_p": 1.0,
                    "max_tokens": 512,
                }
                async with session.post(f"{url}/v1/chat/completions", data=orjson.dumps(body)) as response:
                    answer = orjson.loads(await response.read())
                verdicts.append(answer["choices"][0]["message"]["content"])

        await asyncio.gather(*(worker() for _ in range(in_flight)))
    print(len(verdicts))


if __name__ == "__main__":
    if sys.argv[4:] == ["uvloop"]:
        import uvloop

        uvloop.install()
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
