"""The same tool call over WebSocket, old and new, and over Cap'n Proto: doors_client.py WS_URL CAPNP_ADDRESS TOKEN SCHEMA TOOL ARGUMENTS [HEADERS]

Prints for each what came back, as text; HEADERS is a JSON object for the WebSocket's handshake.
"""

import asyncio
import json
import sys

import capnp
from websockets.asyncio.client import connect

MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


async def ask(socket, id, method, params):
    await socket.send(json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
    async for text in socket:
        message = json.loads(text)
        if message.get("id") == id:
            return text


async def over_websocket(url, headers, tool, arguments):
    call = {"name": tool, "arguments": arguments}
    async with connect(url, additional_headers=headers, proxy=None) as socket:
        modern = await ask(socket, 1, "tools/call", {**call, "_meta": MODERN})
    async with connect(url, additional_headers=headers, proxy=None) as socket:
        info = {"name": "t", "version": "1"}
        begin = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info}
        await ask(socket, 1, "initialize", begin)
        await socket.send(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}))
        session = await ask(socket, 2, "tools/call", call)
    return {"websocket 2026-07-28": modern, "websocket 2025-06-18": session}


async def over_capnp(address, token, schema, tool, arguments):
    interface = capnp.load(schema)
    host, port = address.rsplit(":", 1)
    stream = await capnp.AsyncIoStream.create_connection(host=host, port=int(port))
    gateway = capnp.TwoPartyClient(stream).bootstrap().cast_as(interface.Gateway)
    mcp = (await gateway.authenticate(token)).mcp
    reply = await mcp.callTool(tool=tool, argumentsJson=json.dumps(arguments))
    return str(reply)


async def main(url, address, token, schema, tool, arguments, headers="{}"):
    arguments = json.loads(arguments)
    headers = {"Authorization": f"Bearer {token}", **json.loads(headers)}
    said = await over_websocket(url, headers, tool, arguments)
    said["capnp"] = await over_capnp(address, token, schema, tool, arguments)
    print(json.dumps(said))


asyncio.run(capnp.run(main(*sys.argv[1:])))
