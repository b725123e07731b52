"""An MCP server of 2025-11-25 over standard input and output: `work` takes its time and may be repeated, `ask` asks its client who it is."""

import json
import sys
import threading

ANY = {"type": "object"}
TOOLS = [
    {"name": "work", "inputSchema": ANY, "annotations": {"readOnlyHint": True, "idempotentHint": True}},
    {"name": "ask", "inputSchema": ANY},
]
out = threading.Lock()
asked = {}


def send(message):
    with out:
        print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def answer(id, text):
    content = [{"type": "text", "text": text or "nobody answers"}]
    send({"id": id, "result": {"content": content, "isError": text is None}})


for line in sys.stdin:
    message = json.loads(line)
    id, method, params = message.get("id"), message.get("method"), message.get("params", {})
    if method is None:
        call = asked.pop(id, None)
        if call is not None:
            answer(call, message.get("result", {}).get("content", {}).get("name"))
    elif id is None:
        continue
    elif method == "initialize":
        info = {"name": "sessions", "version": "1"}
        send({"id": id, "result": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}})
    elif method == "tools/list":
        send({"id": id, "result": {"tools": TOOLS}})
    elif method == "tools/call" and params["name"] == "work":
        arguments = params["arguments"]
        threading.Timer(arguments["wait_ms"] / 1000, answer, (id, arguments["text"])).start()
    elif method == "tools/call":
        question = f"q{len(asked)}-{id}"
        asked[question] = id
        schema = {"type": "object", "properties": {"name": {"type": "string"}}}
        send({"id": question, "method": "elicitation/create", "params": {"message": "Who are you?", "requestedSchema": schema}})
    elif method == "ping":
        send({"id": id, "result": {}})
    else:
        send({"id": id, "error": {"code": -32601, "message": "no such method"}})
