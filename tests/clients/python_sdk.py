"""The Python SDK lists the tools and calls one: python_sdk.py URL TOKEN MODE (legacy, auto or a revision)."""

import asyncio
import json
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client


async def main(url: str, token: str, mode: str) -> None:
    http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, trust_env=False)
    async with http, Client(streamable_http_client(url, http_client=http), mode=mode) as client:
        tools = await client.list_tools()
        result = await client.call_tool("hash_digest", {"text": "abc"})
        failed = await client.call_tool("hash_digest", {})
        print(
            json.dumps(
                {
                    "revision": str(client.protocol_version),
                    "tools": [tool.name for tool in tools.tools],
                    "text": result.content[0].text,
                    "structured": result.structured_content,
                    "failed": failed.is_error,
                }
            )
        )


asyncio.run(main(*sys.argv[1:]))
