"""A Python SDK client that is asked and told: asked_python.py URL TOKEN MODE (legacy or a revision)."""

import asyncio
import json
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ElicitResult

questions: list[str] = []


async def answer(_context, params) -> ElicitResult:
    questions.append(params.message)
    return ElicitResult(action="accept", content={"name": "Ana"})


async def main(url: str, token: str, mode: str) -> None:
    http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=60)
    transport = streamable_http_client(url, http_client=http)
    async with http, Client(transport, mode=mode, elicitation_callback=answer) as client:
        asked = await client.call_tool("everything_trigger-elicitation-request", {})
        told: list[float] = []

        async def progress(done: float, _total: float | None, _message: str | None) -> None:
            told.append(done)

        long = await client.call_tool(
            "everything_trigger-long-running-operation", {"duration": 1, "steps": 3}, progress_callback=progress
        )
        before = list(told)
        print(
            json.dumps(
                {
                    "revision": str(client.protocol_version),
                    "questions": questions,
                    "text": " ".join(part.text for part in asked.content),
                    "progress": before,
                    "long": long.content[0].text,
                }
            )
        )


asyncio.run(main(*sys.argv[1:]))
