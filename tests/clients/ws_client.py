"""A WebSocket client of both eras, and what it sees at its edges: ws_client.py URL TOKEN"""

import asyncio
import json
import sys

import websockets
from websockets.asyncio.client import connect
from websockets.frames import Frame, Opcode

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
}
ASKS = "everything_trigger-elicitation-request"
SAMPLES = "everything_trigger-sampling-request"
ROOTS = "everything_get-roots-list"
ANSWERS = {
    "elicitation/create": {"action": "accept", "content": {"name": "Ana"}},
    "sampling/createMessage": {"role": "assistant", "model": "m", "content": {"type": "text", "text": "sampled-9"}},
    "roots/list": {"roots": [{"uri": "file:///srv/root-9", "name": "r"}]},
}
LONG = "everything_trigger-long-running-operation"


def request(id, method, params=None, meta=None):
    params = dict(params or {})
    if meta is not None:
        params["_meta"] = meta
    return json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params})


def notice(method, params=None):
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": params or {}})


class Client:
    def __init__(self, socket):
        self.socket = socket
        self.told = []

    async def answer(self, id):
        """The response with an id; what else comes is kept, and questions are answered."""
        while True:
            message = json.loads(await asyncio.wait_for(self.socket.recv(), 30))
            if message.get("id") == id and "method" not in message:
                return message
            self.told.append(message)
            result = ANSWERS.get(message.get("method"))
            if result is not None and "id" in message:
                await self.socket.send(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}))

    async def ask(self, id, method, params=None, meta=None):
        await self.socket.send(request(id, method, params, meta))
        return await self.answer(id)

    def progress(self):
        return [m["params"]["progress"] for m in self.told if m["method"] == "notifications/progress"]


async def legacy(open, revision):
    async with open() as socket:
        client = Client(socket)
        early = await client.ask(0, "tools/list")
        capabilities = {"elicitation": {}, "sampling": {}, "roots": {}}
        params = {"protocolVersion": revision, "capabilities": capabilities, "clientInfo": {"name": "t", "version": "1"}}
        begun = await client.ask(1, "initialize", params)
        await socket.send(notice("notifications/initialized"))
        tools = await client.ask(2, "tools/list")
        asked = await client.ask(3, "tools/call", {"name": ASKS, "arguments": {}})
        long = {"name": LONG, "arguments": {"duration": 1, "steps": 3}}
        await client.ask(4, "tools/call", long, {"progressToken": "p"})
        # Cancelled: no answer comes, and the connection goes on.
        long["arguments"]["duration"] = 60
        await socket.send(request(5, "tools/call", long))
        await socket.send(notice("notifications/cancelled", {"requestId": 5}))
        level = await client.ask(6, "logging/setLevel", {"level": "error"})
        resources = (await client.ask(7, "resources/list"))["result"]["resources"]
        uri = {"uri": resources[0]["uri"]}
        prompts = (await client.ask(8, "prompts/list"))["result"]["prompts"]
        simple = next(p["name"] for p in prompts if not p.get("arguments"))
        wants = next(p for p in prompts if p.get("arguments"))
        argument = {"name": wants["arguments"][0]["name"], "value": ""}
        methods = [
            ("ping", {}),
            ("resources/read", uri),
            ("resources/templates/list", {}),
            ("resources/subscribe", uri),
            ("resources/unsubscribe", uri),
            ("prompts/get", {"name": simple}),
            ("completion/complete", {"ref": {"type": "ref/prompt", "name": wants["name"]}, "argument": argument}),
        ]
        failed = {}
        for at, (method, params) in enumerate(methods):
            answer = await client.ask(20 + at, method, params)
            if "result" not in answer:
                failed[method] = answer
        sampled = await client.ask(40, "tools/call", {"name": SAMPLES, "arguments": {"prompt": "x", "maxTokens": 9}})
        roots = await client.ask(41, "tools/call", {"name": ROOTS, "arguments": {}})
        return {
            "early": early["error"]["code"],
            "revision": begun["result"]["protocolVersion"],
            "tools": len(tools["result"]["tools"]),
            "text": json.dumps(asked.get("result", asked)),
            "progress": client.progress(),
            "level": level["result"],
            "failed": failed,
            "sampled": json.dumps(sampled),
            "roots": json.dumps(roots),
            "subprotocol": socket.subprotocol,
            "others": [m["method"] for m in client.told if m["method"] not in ("notifications/progress", *ANSWERS)],
        }


async def modern(open):
    async with open() as socket:
        client = Client(socket)
        discover = await client.ask("d", "server/discover", {}, META)
        call = {"name": ASKS, "arguments": {}}
        asked = await client.ask(1, "tools/call", call, META)
        questions = asked["result"]["inputRequests"]
        again = {
            **call,
            "requestState": asked["result"]["requestState"],
            "inputResponses": {key: {"action": "accept", "content": {"name": "Ana"}} for key in questions},
        }
        answered = await client.ask(2, "tools/call", again, META)
        long = {"name": LONG, "arguments": {"duration": 1, "steps": 3}}
        await client.ask(3, "tools/call", long, {**META, "progressToken": "p"})
        listen = request("ears", "subscriptions/listen", {"notifications": {"toolsListChanged": True}}, META)
        await socket.send(listen)
        while not any(m["method"] == "notifications/subscriptions/acknowledged" for m in client.told):
            client.told.append(json.loads(await asyncio.wait_for(socket.recv(), 30)))
        await socket.send(request("twice", "tools/call", {**long, "arguments": {"duration": 60, "steps": 2}}, META))
        twice = await client.ask("twice", "tools/list", {}, META)
        await socket.send(notice("notifications/cancelled", {"requestId": "twice"}))
        future = {**META, "io.modelcontextprotocol/protocolVersion": "2099-01-01"}
        return {
            "capabilities": sorted(discover["result"]["capabilities"]),
            "first": asked["result"]["resultType"],
            "text": json.dumps(answered.get("result", answered)),
            "progress": client.progress(),
            "twice": twice["error"]["code"],
            "future": (await client.ask(9, "tools/list", {}, future))["error"]["code"],
            "unknown": (await client.ask(10, "no/such", {}, META))["error"]["code"],
        }


async def closes(open, act):
    """The code with which the edge ends a connection after something."""
    async with open() as socket:
        await act(socket)
        try:
            while True:
                await asyncio.wait_for(socket.recv(), 30)
        except websockets.ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else None


async def refused(url, headers, **more):
    try:
        async with connect(url, additional_headers=headers, proxy=None, **more):
            return 101
    except websockets.InvalidStatus as status:
        return status.response.status_code


async def main(url, token):
    bearer = {"Authorization": f"Bearer {token}"}

    def open():
        return connect(url, additional_headers=bearer, subprotocols=["mcp"], proxy=None, max_size=None)

    async def raw(socket, opcode, data, fin=True):
        async with socket.send_context():
            socket.protocol.send_frame(Frame(opcode, data, fin))

    async def many(socket):
        # A message in pieces, with a ping between them, is one message.
        text = request(1, "ping").encode()
        await raw(socket, Opcode.TEXT, text[:10], fin=False)
        pong = await socket.ping()
        await raw(socket, Opcode.CONT, text[10:20], fin=False)
        await raw(socket, Opcode.CONT, text[20:])
        await pong
        return json.loads(await asyncio.wait_for(socket.recv(), 30))

    async with open() as socket:
        fragments = await many(socket)
        await socket.send("{")
        broken = json.loads(await asyncio.wait_for(socket.recv(), 30))
        await socket.send("[]")
        empty = json.loads(await asyncio.wait_for(socket.recv(), 30))
        # More at once than may be.
        long = {"name": LONG, "arguments": {"duration": 30, "steps": 1}}
        for id in range(70):
            await socket.send(request(id, "tools/call", long, META))
        busy = [json.loads(await asyncio.wait_for(socket.recv(), 30)) for _ in range(6)]

    print(
        json.dumps(
            {
                "legacy": {r: await legacy(open, r) for r in ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")},
                "modern": await modern(open),
                "fragments": fragments,
                "broken": broken["error"]["code"],
                "empty": empty["error"]["code"],
                "busy": [m["error"]["code"] for m in busy],
                "binary": await closes(open, lambda s: s.send(b"{}")),
                "large": await closes(open, lambda s: s.send("x" * 70_000)),
                "utf8": await closes(open, lambda s: raw(s, Opcode.TEXT, b"\xff\xfe")),
                "protocol": await closes(open, lambda s: raw(s, Opcode.CONT, b"x")),
                "nobody": await refused(url, {}),
                "page": await refused(url, bearer, origin="https://evil.example"),
                "own page": await refused(url, bearer, origin="http://localhost:3000"),
            }
        )
    )


asyncio.run(main(*sys.argv[1:]))
