"""Calls a server by the real openai package, in a separate venv: `python calls_by_openai.py ADDRESS`.

Prints the answers as one JSON object; a test compares that with Midrib's own answers.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import openai  # type: ignore[import-not-found] # only in that venv

TEXTS = ["good morning", "la bonne nuit"]
WORDS = "text/embedding/words"


def rows(answer: Any) -> list[list[float]]:
    return [item.embedding for item in answer.data]


def refusal(call: Any, **arguments: Any) -> list[Any]:
    try:
        call(**arguments)
    except openai.APIStatusError as error:
        return [type(error).__name__, error.status_code, error.code, error.param, error.message]
    return ["answered"]


def embedded(client: Any) -> dict[str, Any]:
    """Each form of input; without an encoding_format the package asks for base64 and decodes it."""
    create = client.embeddings.create
    return {
        "texts": rows(create(model=WORDS, input=TEXTS)),
        "text": rows(create(model=WORDS, input=TEXTS[0])),
        "float": rows(create(model=WORDS, input=TEXTS, encoding_format="float")),
        "dimensions": rows(create(model=WORDS, input=TEXTS, dimensions=2)),
        "as made": rows(create(model=WORDS, input=TEXTS, extra_body={"normalize": False})),
        "ids": rows(create(model=WORDS, input=[[5, 6], [7]], encoding_format="float")),
        "one text's ids": rows(create(model=WORDS, input=[5, 6], encoding_format="float")),
        "tokens": create(model=WORDS, input=TEXTS).usage.prompt_tokens,
    }


async def asynchronously(address: str) -> list[Any]:
    """Twenty calls side by side."""
    async with openai.AsyncOpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0) as client:
        answers = await asyncio.gather(*(client.embeddings.create(model=WORDS, input=TEXTS) for _ in range(20)))
        return [rows(answer) for answer in answers]


def main(address: str) -> None:
    with openai.OpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0) as client:
        create = client.embeddings.create
        got = {
            "embedded": embedded(client),
            "models": [model.id for model in client.models.list()],
            "model": client.models.retrieve(WORDS).id,
            "unknown model": refusal(create, model="word", input="x"),
            "dimensions": refusal(create, model=WORDS, input="x", dimensions=9),
            "too many": refusal(create, model=WORDS, input=["x"] * 2049),
        }
    got["asynchronously"] = asyncio.run(asynchronously(address))
    sys.stdout.write(json.dumps(got))


main(sys.argv[1])
