"""An MCP server over stdio that does what well-behaved ones do not. Its first argument says how it meets its client."""
import json, os, subprocess, sys, time

mood = sys.argv[1] if len(sys.argv) > 1 else "legacy"
names = ["pid", "env", "meta", "hang", "cancelled", "die", "huge", "garbage", "ask", "fork", "grow"]
cancelled = []
hurried = False


def send(message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def receive():
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    return json.loads(line)


def text(value):
    return {"content": [{"type": "text", "text": json.dumps(value)}]}


def call(id, params):
    name = params["name"]
    if name == "pid":
        return text(os.getpid())
    if name == "env":
        return text(sorted(os.environ))
    if name == "meta":
        return text(params.get("_meta"))
    if name == "cancelled":
        return text(cancelled)
    if name == "die":
        os._exit(3)
    if name == "huge":
        return text("x" * (11 << 20))
    if name == "garbage":
        sys.stdout.write("listening on port 3000\n{\"jsonrpc\": oops\n[]\n\x00\xff\n\n")
        return text("still here")
    if name == "ask":
        answers = []
        for method in ["ping", "sampling/createMessage", "roots/list"]:
            send({"id": "q-" + method, "method": method, "params": {}})
            answers.append(receive())
        return text(answers)
    if name == "fork":
        return text(subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL).pid)
    if name == "grow":
        names.append("grown")
        send({"method": "notifications/tools/list_changed"})
        return text("grown")
    return None  # hang


if mood == "exits":
    print("cannot open \x1b[31mthe thing", file=sys.stderr)
    sys.exit(1)
if mood == "mute":
    time.sleep(1000)
while True:
    message = receive()
    id, method, params = message.get("id"), message.get("method"), message.get("params") or {}
    if method == "server/discover":
        if mood == "modern":
            send({"id": id, "result": {"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}})
        elif mood == "shy":
            sys.exit(0)
        elif mood == "late" and not hurried:
            pass  # reads it, and is too busy to answer in time
        elif mood == "late":
            send({"id": id, "result": {"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}})
        elif mood != "silent":
            send({"id": id, "error": {"code": -32601, "message": "no such method"}})
    elif method == "initialize" and mood == "late":
        hurried = True
        send({"id": id, "error": {"code": -32022, "message": "too late", "data": {"supported": ["2026-07-28"]}}})
    elif method == "initialize":
        send({"id": id, "result": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {"listChanged": True}}, "serverInfo": {"name": "rude", "version": "0"}}})
    elif method == "ping":
        send({"id": id, "result": {}})
    elif method == "tools/list":
        tools = [{"name": name, "inputSchema": {"type": "object"}} for name in names]
        send({"id": id, "result": {"tools": tools}})
    elif method == "tools/call":
        result = call(id, params)
        if result is not None:
            # The id comes last, as the TypeScript servers write it.
            sys.stdout.write(json.dumps({"result": result, "jsonrpc": "2.0", "id": id}) + "\n")
            sys.stdout.flush()
    elif method == "notifications/cancelled":
        cancelled.append(params.get("requestId"))
