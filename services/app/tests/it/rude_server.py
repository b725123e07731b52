"""An MCP server over stdio that does what well-behaved ones do not. Its first argument says how it meets its client."""
import json, os, subprocess, sys, time

mood = sys.argv[1] if len(sys.argv) > 1 else "legacy"
names = ["pid", "env", "meta", "hang", "cancelled", "die", "huge", "garbage", "ask", "fork", "grow", "work", "elicit", "pair", "more", "task", "touch", "subscribed", "strict", "level", "hung"]
cancelled = []
hung = 0
hurried = False
subscribed = set()
level = None


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


def asked(*questions):
    """Puts questions and waits for all answers; None if the call is given up meanwhile."""
    for number, (method, params) in enumerate(questions):
        send({"id": f"q{number}", "method": method, "params": params})
    answers = {}
    while len(answers) < len(questions):
        message = receive()
        if message.get("method") == "notifications/cancelled":
            cancelled.append(message["params"].get("requestId"))
            return None
        if message.get("method") == "tools/call":
            serve(message["id"], message["params"])
        elif "method" not in message:
            answers[message["id"]] = message.get("result", message.get("error"))
    return text([answers[f"q{number}"] for number in range(len(questions))])


def elicitation(message):
    return "elicitation/create", {"message": message, "requestedSchema": {"type": "object", "properties": {}}}


def call(id, params):
    global level, hung
    name = params["name"]
    meta = params.get("_meta") or {}
    if name == "work":
        token = meta.get("progressToken")
        for step in range(int((params.get("arguments") or {}).get("steps", 2))):
            if token is not None:
                send({"method": "notifications/progress", "params": {"progressToken": token, "progress": step}})
            for grave in ["debug", "error"]:
                send({"method": "notifications/message", "params": {"level": grave, "data": step}})
        return text("done")
    if name == "elicit":
        return asked(elicitation("who?"))
    if name == "pair":
        return asked(elicitation("who?"), ("roots/list", {}))
    if name == "more":
        if "requestState" not in params:
            return {"resultType": "input_required", "requestState": "own state", "inputRequests": {
                "who": {"method": "elicitation/create", "params": elicitation("who?")[1]}}}
        return text([params["requestState"], params.get("inputResponses")])
    if name == "task":
        return {"resultType": "task", "taskId": "t-1", "status": "working"}
    if name == "touch":
        for uri in sorted(subscribed):
            send({"method": "notifications/resources/updated", "params": {"uri": uri}})
        return text("touched")
    if name == "subscribed":
        return text(sorted(subscribed))
    if name == "strict":
        return text(params.get("arguments"))
    if name == "level":
        return text(level)
    if name == "pid":
        return text(os.getpid())
    if name == "env":
        return text(sorted(os.environ))
    if name == "meta":
        return text(params.get("_meta"))
    if name == "cancelled":
        return text(cancelled)
    if name == "hung":
        return text(hung)
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
    hung += 1
    if (params.get("arguments") or {}).get("begin"):
        send({"method": "notifications/progress", "params": {"progressToken": meta["progressToken"], "progress": 0}})
    return None  # hang


def serve(id, params):
    result = call(id, params)
    if result is not None:
        # The id comes last, as the TypeScript servers write it.
        sys.stdout.write(json.dumps({"result": result, "jsonrpc": "2.0", "id": id}) + "\n")
        sys.stdout.flush()


capabilities = {
    "tools": {"listChanged": True}, "prompts": {}, "resources": {"subscribe": True}, "completions": {}, "logging": {},
    "extensions": {"io.modelcontextprotocol/tasks": {}},
}
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
            send({"id": id, "result": {"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": capabilities}})
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
        send({"id": id, "result": {"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": {"name": "rude", "version": "0"}}})
    elif method == "ping":
        send({"id": id, "result": {}})
    elif method == "tools/list":
        tools = [{"name": name, "inputSchema": {"type": "object"}} for name in names]
        for tool in tools:
            if tool["name"] == "strict":
                tool["inputSchema"]["properties"] = {"n": {"type": "integer", "x-mcp-header": "Number"}}
        send({"id": id, "result": {"tools": tools}})
    elif method == "tools/call":
        serve(id, params)
    elif method == "prompts/list":
        send({"id": id, "result": {"prompts": [{"name": "greet"}]}})
    elif method == "resources/list":
        send({"id": id, "result": {"resources": [{"uri": "x://watched", "name": "watched"}]}})
    elif method == "resources/templates/list":
        send({"id": id, "result": {"resourceTemplates": [{"uriTemplate": "x://{id}", "name": "any"}]}})
    elif method == "completion/complete":
        send({"id": id, "result": {"completion": {"values": [json.dumps(params["ref"])]}}})
    elif method == "resources/subscribe":
        subscribed.add(params["uri"])
        send({"id": id, "result": {}})
    elif method == "resources/unsubscribe":
        subscribed.discard(params["uri"])
        send({"id": id, "result": {}})
    elif method == "subscriptions/listen":
        subscribed = set(params["notifications"]["resourceSubscriptions"])
    elif method == "logging/setLevel":
        level = params["level"]
        send({"id": id, "result": {}})
    elif method and method.startswith("tasks/"):
        send({"id": id, "result": {"resultType": "complete", "taskId": params["taskId"], "status": "working"}})
    elif method == "notifications/cancelled":
        cancelled.append(params.get("requestId"))
