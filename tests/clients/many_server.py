"""An MCP server of 2025-11-25 over standard input and output with the tools of a table, each of which tells its name and
arguments, and forgets the one that an argument `forget` names: many_server.py TABLE (lines of
NAME | DESCRIPTION | ARGUMENTS)"""

import json
import sys


def tool(line):
    name, description, arguments = line.rstrip("\n").split(" | ")
    properties = {a: {"type": "string", "description": f"The {a.replace('_', ' ')}."} for a in arguments.split()}
    return {"name": name, "description": description, "inputSchema": {"type": "object", "properties": properties}}


with open(sys.argv[1], encoding="utf-8") as table:
    TOOLS = [tool(line) for line in table]

for line in sys.stdin:
    message = json.loads(line)
    method, params = message.get("method"), message.get("params", {})
    if "id" not in message:
        continue
    if method == "initialize":
        info = {"name": "many", "version": "1"}
        answer = {"result": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {"listChanged": True}}, "serverInfo": info}}
    elif method == "tools/list":
        answer = {"result": {"tools": TOOLS}}
    elif method == "tools/call":
        if forgotten := (params.get("arguments") or {}).get("forget"):
            TOOLS = [tool for tool in TOOLS if tool["name"] != forgotten]
            print('{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}', flush=True)
        told = json.dumps([params["name"], params.get("arguments")])
        answer = {"result": {"content": [{"type": "text", "text": told}]}}
    elif method == "ping":
        answer = {"result": {}}
    else:
        answer = {"error": {"code": -32601, "message": "no such method"}}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer}), flush=True)
