"""An MCP server of 2025-11-25 over standard input and output: dying_server.py FILE. Its one tool, which says that it only reads, writes a line to FILE and ends the server."""

import json
import os
import sys

TOOL = {"name": "die", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}

for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    method = message.get("method")
    if method == "initialize":
        info = {"name": "dying", "version": "1"}
        answer = {"result": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}}
    elif method == "tools/list":
        answer = {"result": {"tools": [TOOL]}}
    elif method == "tools/call":
        with open(sys.argv[1], "a") as file:
            file.write("run\n")
        os._exit(1)
    elif method == "ping":
        answer = {"result": {}}
    else:
        answer = {"error": {"code": -32601, "message": "no such method"}}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer}), flush=True)
