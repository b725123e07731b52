"""The Python SDK as a client of the matrix: python.py URL TOKEN REVISION SERVERS [METHODS], lists with commas."""

import asyncio
import contextlib
import sys
import warnings
from collections.abc import AsyncIterator
from typing import Any, Literal

import httpx2
import mcp.client.session
import mcp.types as types
from mcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPDeprecationWarning

import script

NEWEST = "2026-07-28"
warnings.simplefilter("ignore", MCPDeprecationWarning)


async def sample(_context, params) -> types.CreateMessageResult:
    return types.CreateMessageResult(role="assistant", content=types.TextContent(text="Paris"), model="test")


async def elicit(_context, params) -> types.ElicitResult:
    named = isinstance(params, types.ElicitRequestFormParams)
    return types.ElicitResult(action="accept", content={"name": "Ana"} if named else None)


async def roots(_context) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[types.Root(uri="file:///matrix")])


class Made(types.Result):
    """A task, as the extension has it."""

    result_type: Literal["task"] = "task"
    task_id: str


class TaskParams(types.RequestParams):
    task_id: str


class GetTask(types.Request[TaskParams, Literal["tasks/get"]]):
    method: Literal["tasks/get"] = "tasks/get"
    params: TaskParams
    name_param = "taskId"


class Got(types.Result):
    status: str
    result: dict[str, Any] | None = None


class Tasks(ClientExtension):
    """The tasks extension, of which the SDK has the frame and not the content."""

    identifier = "io.modelcontextprotocol/tasks"

    def __init__(self, heard: script.Heard) -> None:
        self.heard = heard

    def claims(self) -> list[ResultClaim]:
        return [ResultClaim(result_type="task", model=Made, resolve=self.finish)]

    async def finish(self, made: Made, context: ClaimContext) -> types.CallToolResult:
        self.heard.tasks += 1
        while True:
            request = GetTask(params=TaskParams(task_id=made.task_id))
            got = await context.session.send_request(request, Got)
            if got.status == "completed":
                return types.CallToolResult.model_validate(got.result)
            if got.status != "working":
                raise RuntimeError(f"the task is {got.status}")
            await asyncio.sleep(0.02)


class Sdk:
    """What the script wants, in the SDK's words."""

    def __init__(self, client: Client, heard: script.Heard) -> None:
        self.client = client
        self.heard = heard
        self.is_new = client.protocol_version == NEWEST

    async def tools(self) -> list[str]:
        return list(await self.tool_descriptions())

    async def tool_descriptions(self) -> dict[str, str]:
        return {tool.name: tool.description for tool in (await self.client.list_tools()).tools}

    async def call(self, name: str, arguments: dict, progress=None) -> tuple[str, Any, bool]:
        result = await self.client.call_tool(name, arguments, progress_callback=progress)
        return " ".join(part.text for part in result.content), result.structured_content, bool(result.is_error)

    async def resources(self) -> list[str]:
        return list(await self.resource_descriptions())

    async def resource_descriptions(self) -> dict[str, str]:
        return {str(one.uri): one.description for one in (await self.client.list_resources()).resources}

    async def read(self, uri: str) -> str:
        return (await self.client.read_resource(uri)).contents[0].text

    async def templates(self) -> list[str]:
        return [one.uri_template for one in (await self.client.list_resource_templates()).resource_templates]

    async def prompts(self) -> list[str]:
        return list(await self.prompt_descriptions())

    async def prompt_descriptions(self) -> dict[str, str]:
        return {prompt.name: prompt.description for prompt in (await self.client.list_prompts()).prompts}

    async def prompt(self, name: str, arguments: dict) -> str:
        return (await self.client.get_prompt(name, arguments)).messages[0].content.text

    async def complete_prompt(self, name: str, argument: str, value: str) -> list[str]:
        return await self.complete(types.PromptReference(name=name), argument, value)

    async def complete_template(self, uri: str, argument: str, value: str) -> list[str]:
        return await self.complete(types.ResourceTemplateReference(uri=uri), argument, value)

    async def complete(self, reference, argument: str, value: str) -> list[str]:
        return (await self.client.complete(reference, {"name": argument, "value": value})).completion.values

    async def level(self, level: types.LoggingLevel) -> None:
        # In the newest revision each request says it: `log_level` below.
        if not self.is_new:
            await self.client.set_logging_level(level)

    def listen(self, **kinds):
        return self.client.listen(**kinds)

    async def subscribe(self, uri: str) -> None:
        await self.client.subscribe_resource(uri)

    async def unsubscribe(self, uri: str) -> None:
        await self.client.unsubscribe_resource(uri)

    @contextlib.asynccontextmanager
    async def listening(self, lists: bool = False, uri: str | None = None) -> AsyncIterator[None]:
        if not self.is_new:
            if uri:
                await self.subscribe(uri)
            yield
            if uri:
                await self.unsubscribe(uri)
            return
        kinds = dict.fromkeys(("tools_list_changed", "prompts_list_changed", "resources_list_changed"), lists)
        async with self.listen(**kinds, resource_subscriptions=[uri] if uri else ()) as events:

            async def hear() -> None:
                async for event in events:
                    self.heard.events.append(named(event))

            hearing = asyncio.create_task(hear())
            yield
            hearing.cancel()


def named(event: object) -> str:
    """The script's word for a change."""
    match type(event).__name__.removesuffix("Notification"):
        case "ToolsListChanged" | "ToolListChanged":
            return "tools"
        case "PromptsListChanged" | "PromptListChanged":
            return "prompts"
        case "ResourcesListChanged" | "ResourceListChanged":
            return "resources"
        case "ResourceUpdated":
            return str(getattr(event, "params", event).uri)
        case other:
            return other


async def main(url: str, token: str, revision: str, servers: str, only: str = "") -> None:
    heard = script.Heard()

    async def logged(params) -> None:
        heard.logs.append(f"{params.level} {params.data}")

    async def told(message) -> None:
        if isinstance(message, types.ServerNotification):
            heard.events.append(named(message))

    # The SDK speaks all older revisions and has no argument that says which one it offers.
    mcp.client.session.LATEST_HANDSHAKE_VERSION = revision
    http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=60)
    async with (
        http,
        Client(
            streamable_http_client(url, http_client=http),
            mode=revision if revision == NEWEST else "legacy",
            sampling_callback=sample,
            elicitation_callback=elicit,
            list_roots_callback=roots,
            logging_callback=logged,
            log_level="warning",
            message_handler=told,
            extensions=[Tasks(heard)],
            cache=None,
        ) as client,
    ):
        print(f'{{"revision": "{client.protocol_version}"}}', flush=True)
        await script.run(Sdk(client, heard), servers.split(","), [name for name in only.split(",") if name])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
