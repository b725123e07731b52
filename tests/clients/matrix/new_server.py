"""A server of 2026-07-28 in the Python SDK that offers every method: new_server.py FOLDER

What changes stands in FOLDER, as the size of a file, so that all processes of this server see a change and tell of it.
"""

import sys
import warnings
from pathlib import Path

import anyio
import mcp.types as types
from mcp.server import Server
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError

ME = "new"
TASKS = "io.modelcontextprotocol/tasks"
WATCHED = f"{ME}://watched"
FOLDER = Path(sys.argv[1])
EVENTS = {
    "tools": ToolsListChanged(),
    "prompts": PromptsListChanged(),
    "resources": ResourcesListChanged(),
    "watched": ResourceUpdated(uri=WATCHED),
}
NAMES = ["Ana", "Anton", "Berta"]
ITEMS = ["1", "10", "2"]
CACHED = {"ttl_ms": 0, "cache_scope": "public"}
warnings.simplefilter("ignore", MCPDeprecationWarning)


def count(what: str) -> int:
    path = FOLDER / f"{ME}-{what}"
    return path.stat().st_size if path.exists() else 0


def change(what: str) -> int:
    with (FOLDER / f"{ME}-{what}").open("ab") as file:
        file.write(b".")
        return file.tell()


def changed(what: str) -> str:
    return f"changed {count(what)} times"


def text(said: str, **more) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=said)], **more)


# Tools


def ask(name: str, request: types.InputRequest, declared: object, params, said) -> types.Result:
    """Asks the client in a first round, and says in a second what it answered."""
    if declared is None:
        return text(f"{name}: not declared")
    answer = (params.input_responses or {}).get(name)
    if answer is None:
        return types.InputRequiredResult(input_requests={name: request}, request_state=f"state of {name}")
    if params.request_state != f"state of {name}":
        raise MCPError(types.INVALID_PARAMS, "the state is another")
    return text(f"{name}: {said(answer)}")


async def add(ctx, params) -> types.Result:
    total = params.arguments["a"] + params.arguments["b"]
    return text(str(total), structured_content={"sum": total})


async def fail(_ctx, _params) -> types.Result:
    return text("it failed as it should", is_error=True)


async def form(ctx, params) -> types.Result:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    request = types.ElicitRequest(params=types.ElicitRequestFormParams(message="Who?", requested_schema=schema))
    declared = ctx.session.client_capabilities.elicitation
    return ask("form", request, declared, params, lambda a: f"{a.action} {(a.content or {}).get('name')}")


async def url(ctx, params) -> types.Result:
    request = types.ElicitRequest(
        params=types.ElicitRequestURLParams(message="Sign in", url="https://example.com/in", elicitation_id="sign-in")
    )
    elicitation = ctx.session.client_capabilities.elicitation
    return ask("url", request, elicitation and elicitation.url, params, lambda a: a.action)


async def sample(ctx, params) -> types.Result:
    message = types.SamplingMessage(role="user", content=types.TextContent(text="The capital of France?"))
    request = types.CreateMessageRequest(params=types.CreateMessageRequestParams(messages=[message], max_tokens=10))
    declared = ctx.session.client_capabilities.sampling
    return ask("sample", request, declared, params, lambda a: a.content.text)


async def roots(ctx, params) -> types.Result:
    declared = ctx.session.client_capabilities.roots
    request = types.ListRootsRequest()
    return ask("roots", request, declared, params, lambda a: " ".join(str(root.uri) for root in a.roots))


async def log(ctx, _params) -> types.Result:
    await ctx.session.send_log_message("debug", "all is well")
    await ctx.session.send_log_message("warning", "careful")
    return text("logged")


async def progress(ctx, _params) -> types.Result:
    for step in (1, 2, 3):
        await ctx.session.report_progress(step, 3, f"step {step}")
    return text("done")


async def slow(ctx, params) -> types.Result:
    mark = FOLDER / f"{ME}-{params.arguments['mark']}"
    mark.write_text("begun")
    try:
        await ctx.session.report_progress(1, 2)
        await anyio.sleep(60)
    except anyio.get_cancelled_exc_class():
        mark.write_text("cancelled")
        raise
    return text("nobody cancelled it")


async def how_far(_ctx, params) -> types.Result:
    mark = FOLDER / f"{ME}-{params.arguments['mark']}"
    return text(mark.read_text() if mark.exists() else "not begun")


async def change_list(_ctx, params) -> types.Result:
    return text(str(change(params.arguments["what"])))


async def as_task(ctx, _params) -> types.Result | dict:
    capabilities = ctx.session.client_capabilities
    if TASKS not in (capabilities.extensions or {}):
        return text("done")
    made = str(len(tasks))
    tasks[made] = 0
    return {"resultType": "task", **task(made, "working")}


def schema(**properties: str) -> dict:
    kinds = {name: {"type": kind} for name, kind in properties.items()}
    return {"type": "object", "properties": kinds, "required": list(properties)}


TOOLS = {
    "add": (add, schema(a="integer", b="integer")),
    "fail": (fail, schema()),
    "form": (form, schema()),
    "url": (url, schema()),
    "sample": (sample, schema()),
    "roots": (roots, schema()),
    "log": (log, schema()),
    "progress": (progress, schema()),
    "slow": (slow, schema(mark="string")),
    "how_far": (how_far, schema(mark="string")),
    "change": (change_list, schema(what="string")),
    "task": (as_task, schema()),
}


async def list_tools(_ctx, _params) -> types.ListToolsResult:
    tools = [
        types.Tool(
            name=name,
            description=changed("tools") if name == "change" else f"The tool {name}.",
            input_schema=takes,
            output_schema=schema(sum="integer") if name == "add" else None,
        )
        for name, (_, takes) in TOOLS.items()
    ]
    return types.ListToolsResult(tools=tools, **CACHED)


async def call_tool(ctx, params) -> types.Result | dict:
    found = TOOLS.get(params.name)
    if found is None:
        raise MCPError(types.INVALID_PARAMS, "no such tool")
    return await found[0](ctx, params)


# Tasks: each is done when it has been looked at twice.

tasks: dict[str, int] = {}
AT = "2026-07-28T00:00:00Z"


def task(made: str, status: str, **more) -> dict:
    times = {"createdAt": AT, "lastUpdatedAt": AT, "ttlMs": 60000, "pollIntervalMs": 20}
    return {"taskId": made, "status": status, **times, **more}


class TaskParams(types.RequestParams):
    task_id: str


async def get_task(_ctx, params: TaskParams) -> dict:
    if params.task_id not in tasks:
        raise MCPError(types.INVALID_PARAMS, "no such task")
    tasks[params.task_id] += 1
    if tasks[params.task_id] < 2:
        return task(params.task_id, "working")
    result = {"content": [{"type": "text", "text": "done"}], "resultType": "complete"}
    return task(params.task_id, "completed", result=result)


# Prompts, resources, completion


async def list_prompts(_ctx, _params) -> types.ListPromptsResult:
    argument = types.PromptArgument(name="name", description="Whom.", required=True)
    greet = types.Prompt(name="greet", description=changed("prompts"), arguments=[argument])
    return types.ListPromptsResult(prompts=[greet], **CACHED)


async def get_prompt(_ctx, params) -> types.GetPromptResult:
    said = types.TextContent(text=f"Greet {params.arguments['name']} from {ME}.")
    return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=said)])


async def list_resources(_ctx, _params) -> types.ListResourcesResult:
    note = types.Resource(uri=f"{ME}://note", name="note", description=changed("resources"), mime_type="text/plain")
    watched = types.Resource(uri=WATCHED, name="watched", description="What changes.", mime_type="text/plain")
    return types.ListResourcesResult(resources=[note, watched], **CACHED)


async def list_templates(_ctx, _params) -> types.ListResourceTemplatesResult:
    item = types.ResourceTemplate(uri_template=f"{ME}://item/{{id}}", name="item", description="One item.")
    return types.ListResourceTemplatesResult(resource_templates=[item], **CACHED)


async def read_resource(_ctx, params) -> types.ReadResourceResult:
    kind, _, item = params.uri.removeprefix(f"{ME}://").partition("/")
    known = {"note": f"kept by {ME}", "watched": changed("watched"), "item": f"item {item} of {ME}"}
    if kind not in known:
        raise MCPError(types.INVALID_PARAMS, "no such resource", {"uri": params.uri})
    contents = [types.TextResourceContents(uri=params.uri, mime_type="text/plain", text=known[kind])]
    return types.ReadResourceResult(contents=contents, **CACHED)


async def complete(_ctx, params) -> types.CompleteResult:
    known = NAMES if isinstance(params.ref, types.PromptReference) else ITEMS
    found = [value for value in known if value.startswith(params.argument.value)]
    return types.CompleteResult(completion=types.Completion(values=found, total=len(found), has_more=False))


async def set_level(_ctx, _params) -> types.EmptyResult:
    return types.EmptyResult()


async def tell(bus: InMemorySubscriptionBus) -> None:
    known = {what: count(what) for what in EVENTS}
    while True:
        for what, event in EVENTS.items():
            if (now := count(what)) != known[what]:
                known[what] = now
                await bus.publish(event)
        await anyio.sleep(0.02)


async def main() -> None:
    bus = InMemorySubscriptionBus()
    server = Server(
        ME,
        version="1",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
        on_completion=complete,
        on_set_logging_level=set_level,
        on_subscriptions_listen=ListenHandler(bus),
    )
    server.extensions[TASKS] = {}
    server.add_request_handler("tasks/get", TaskParams, get_task)
    async with stdio_server() as (read, write), anyio.create_task_group() as group:
        group.start_soon(tell, bus)
        await server.run(read, write, server.create_initialization_options())
        group.cancel_scope.cancel()


anyio.run(main)
