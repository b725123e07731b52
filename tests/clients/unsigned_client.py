"""Calls where nobody can sign: unsigned_client.py WS_URL CAPNP_ADDRESS TOKEN SCHEMA"""

import asyncio
import json
import sys

import capnp
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus


async def main(url, address, token, schema):
    try:
        async with connect(url, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None):
            status = 101
    except InvalidStatus as refused:
        status = refused.response.status_code
    interface = capnp.load(schema)
    host, port = address.rsplit(":", 1)
    stream = await capnp.AsyncIoStream.create_connection(host=host, port=int(port))
    gateway = capnp.TwoPartyClient(stream).bootstrap().cast_as(interface.Gateway)
    mcp = (await gateway.authenticate(token)).mcp
    reply = await mcp.callTool(tool="hash_digest", argumentsJson=json.dumps({"text": "abc"}))
    print(json.dumps({"websocket": status, "capnp": str(reply)}))


asyncio.run(capnp.run(main(*sys.argv[1:])))
