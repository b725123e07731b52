"""An MCP server of 2025-11-25 over standard input and output whose one tool tells the `_meta` that it was called with, or fails when asked to."""

import json
import sys

TOOL = {"name": "meta", "description": "Tells what it was called with.", "inputSchema": {"type": "object"}}

for line in sys.stdin:
    message = json.loads(line)
    method, params = message.get("method"), message.get("params", {})
    if "id" not in message:
        continue
    if method == "initialize":
        info = {"name": "meta", "version": "1"}
        answer = {"result": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}}
    elif method == "tools/list":
        answer = {"result": {"tools": [TOOL]}}
    elif method == "tools/call" and params.get("arguments", {}).get("fail"):
        answer = {"error": {"code": -32050, "message": "asked to fail"}}
    elif method == "tools/call":
        answer = {"result": {"content": [{"type": "text", "text": json.dumps(params.get("_meta"))}]}}
    elif method == "ping":
        answer = {"result": {}}
    else:
        answer = {"error": {"code": -32601, "message": "no such method"}}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer}), flush=True)
