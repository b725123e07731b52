"""A remote MCP server whose tool `hang` never answers, and which counts the calls of it that are given up.

Its argument is the era that it speaks: `modern` (a call is given up when its stream is closed) or `legacy` (when it is
told so). It says on a line of its own where it listens.
"""
import json, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

era = sys.argv[1]
LONGEST = 60
lock = threading.Lock()
counts = {"hung": 0, "cancelled": 0}
waiting: dict[object, threading.Event] = {}


def count(what):
    with lock:
        counts[what] += 1


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        method, params = body.get("method"), body.get("params") or {}
        if method == "notifications/cancelled":
            given_up = waiting.get(params.get("requestId"))
            if given_up:
                given_up.set()
        if "id" not in body:
            self.send_response(202)
            self.send_header("content-length", "0")
            self.end_headers()
            return
        result = self.result(body["id"], method, params)
        if result is None:
            return
        answer = {"error": {"code": -32601, "message": "no such method"}} if result is False else {"result": result}
        text = json.dumps({"jsonrpc": "2.0", "id": body["id"], **answer}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def result(self, id, method, params):
        if method == "server/discover" and era == "modern":
            return {"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
        if method == "initialize" and era == "legacy":
            about = {"name": "hanging", "version": "0"}
            return {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": about}
        if method == "ping":
            return {}
        if method == "tools/list":
            tools = [{"name": name, "inputSchema": {"type": "object"}} for name in ["hang", "hung", "cancelled"]]
            return {"tools": tools, "resultType": "complete", "ttlMs": 60000, "cacheScope": "public"}
        if method != "tools/call":
            return False
        if params["name"] == "hang":
            self.hang(id)
            return None
        text = json.dumps(counts[params["name"]])
        return {"resultType": "complete", "content": [{"type": "text", "text": text}]}

    def hang(self, id):
        given_up = waiting[id] = threading.Event()
        count("hung")
        self.close_connection = True
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        until = time.monotonic() + LONGEST
        while time.monotonic() < until:
            if given_up.wait(0.05):
                if era == "legacy":
                    count("cancelled")
                return
            try:
                self.wfile.write(b": still here\n\n")
                self.wfile.flush()
            except OSError:
                # What a closed stream means to each era.
                if era == "modern":
                    count("cancelled")
                    return
                given_up.wait(LONGEST)
                count("cancelled")
                return


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
server.daemon_threads = True
print(f"http://127.0.0.1:{server.server_port}/mcp", flush=True)
server.serve_forever()
