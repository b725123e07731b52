"""An MCP server over stdio that takes what it can get: memory, processors, processes, files, the network."""
import ctypes, json, mmap, os, resource, socket, subprocess, sys, threading, time

kept = []
libc = ctypes.CDLL(None, use_errno=True)


def call(function, *arguments):
    """A function of the C library that returns -1 when it fails."""
    result = getattr(libc, function)(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def spin():
    while True:
        pass


def run(name, arguments):
    if name == "pid":
        return os.getpid()
    if name == "nap":
        time.sleep(arguments["seconds"])
        return os.getpid()
    if name == "eat":
        kept.append(bytearray(b"x") * (arguments["mib"] << 20))
        time.sleep(arguments.get("seconds", 0))
        return "eaten"
    if name == "spin":
        for _ in range(arguments["processes"]):
            if os.fork() == 0:
                spin()
        time.sleep(60)
    if name == "breed":
        for _ in range(arguments["processes"]):
            subprocess.Popen(["sleep", "1000"])
        time.sleep(arguments.get("seconds", 0))
        return "bred"
    if name == "escape":
        # A process in a session of its own.
        return subprocess.Popen(["sleep", "1000"], start_new_session=True, stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid
    if name == "read":
        with open(arguments["path"]) as file:
            return file.read()
    if name == "write":
        with open(arguments["path"], "w") as file:
            file.write("written")
        return "written"
    if name == "truncate":
        os.truncate(arguments["path"], 0)
        return "truncated"
    if name == "connect":
        with socket.create_connection(("127.0.0.1", arguments["port"]), 5):
            return "connected"
    if name == "datagram":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.sendto(b"x", ("127.0.0.1", arguments["port"]))
        return "sent"
    if name == "pair":
        first, second = socket.socketpair()
        first.send(b"x")
        return second.recv(1).decode()
    if name == "eval":
        return str(eval(arguments["python"]))
    raise ValueError(name)


names = ["pid", "nap", "eat", "spin", "breed", "escape", "read", "write", "truncate", "connect", "datagram", "pair", "eval"]

for line in sys.stdin:
    message = json.loads(line)
    method, id = message.get("method"), message.get("id")
    if id is None:
        continue
    if method == "initialize":
        answer = {"result": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "greedy", "version": "1"}}}
    elif method == "tools/list":
        answer = {"result": {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in names]}}
    elif method == "ping":
        answer = {"result": {}}
    elif method == "tools/call":
        try:
            said, failed = run(message["params"]["name"], message["params"].get("arguments") or {}), False
        except Exception as error:
            said, failed = f"{type(error).__name__}: {error}", True
        answer = {"result": {"content": [{"type": "text", "text": json.dumps(said)}], "isError": failed}}
    else:
        answer = {"error": {"code": -32601, "message": "no such method"}}
    print(json.dumps({"jsonrpc": "2.0", "id": id, **answer}), flush=True)
