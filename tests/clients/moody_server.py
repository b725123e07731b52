"""An MCP server of 2025-11-25 with one tool, in the mood that a file names: `well`, `silent`, `dead` or `garbage`.

moody_server.py stdio MOODS NAME    over standard input and output
moody_server.py http MOODS          over HTTP, one server a path; prints its port
MOODS is a folder with one file a server, which is read for every message.
"""

import json
import os
import pathlib
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

kind, moods = sys.argv[1], pathlib.Path(sys.argv[2])


def answer(name, message):
    """The answer's text; None for silence."""
    mood = (moods / name).read_text().strip()
    if mood == "dead":
        raise ConnectionError
    if mood == "silent":
        return None
    if mood == "garbage":
        return "<html>oops"
    id, method = message["id"], message["method"]
    if method == "initialize":
        info = {"name": name, "version": "1"}
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
    elif method == "tools/list":
        result = {"tools": [{"name": "tool", "inputSchema": {"type": "object"}}]}
    elif method == "tools/call":
        result = {"content": [{"type": "text", "text": name}]}
    elif method == "ping":
        result = {}
    else:
        return json.dumps({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no such method"}})
    return json.dumps({"jsonrpc": "2.0", "id": id, "result": result})


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "id" not in message:
            return self.say(202, b"")
        try:
            text = answer(self.path.strip("/"), message)
        except ConnectionError:
            self.close_connection = True
            return
        if text is None:
            threading.Event().wait(600)
        self.say(200, text.encode())

    def do_GET(self):
        self.say(405, b"")

    do_DELETE = do_GET

    def say(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if kind == "http":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    print(server.server_port, flush=True)
    server.serve_forever()
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    try:
        text = answer(sys.argv[3], message)
    except ConnectionError:
        os._exit(3)
    if text is not None:
        print(text, flush=True)
