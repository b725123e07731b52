"""pycapnp authenticates, lists the tools and calls one: capnp_client.py HOST:PORT TOKEN SCHEMA"""

import asyncio
import json
import sys

import capnp


async def main(address: str, token: str, schema: str) -> None:
    interface = capnp.load(schema)
    host, port = address.rsplit(":", 1)
    stream = await capnp.AsyncIoStream.create_connection(host=host, port=int(port))
    gateway = capnp.TwoPartyClient(stream).bootstrap().cast_as(interface.Gateway)

    refused = await gateway.authenticate("not-a-token")
    mcp = (await gateway.authenticate(token)).mcp
    page = (await mcp.listTools(cursor="")).page
    reply = await mcp.callTool(tool="hash_digest", argumentsJson=json.dumps({"text": "abc"}))
    failed = await mcp.callTool(tool="hash_digest", argumentsJson="{}")
    unknown = await mcp.callTool(tool="no_such_tool", argumentsJson="{}")
    broken = await mcp.callTool(tool="hash_digest", argumentsJson="{nonsense")
    again = await mcp.callTool(tool="hash_digest", argumentsJson=json.dumps({"text": "abc"}))
    print(
        json.dumps(
            {
                "refused": refused.failure.code,
                "tools": [tool.name for tool in page.tools],
                "text": reply.result.content[0].text,
                "structured": json.loads(reply.result.structuredJson),
                "failed": failed.result.isError,
                "unknown": unknown.which(),
                "broken": broken.which(),
                "again": again.result.content[0].text,
            }
        )
    )


asyncio.run(capnp.run(main(*sys.argv[1:])))
