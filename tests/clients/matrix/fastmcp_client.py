"""FastMCP as a client of the matrix: fastmcp_client.py URL TOKEN REVISION SERVERS [METHODS], lists with commas."""

import asyncio
import sys
import warnings

import mcp.client.session
import mcp.types as types
from fastmcp import Client
from mcp.client.subscriptions import listen
from mcp.shared.exceptions import MCPDeprecationWarning

import python
import script

warnings.simplefilter("ignore", MCPDeprecationWarning)


async def elicit(_message, _response_type, params, _context) -> types.ElicitResult:
    return await python.elicit(None, params)


class Fast(python.Sdk):
    """Most of FastMCP's words are the SDK's; these are not."""

    async def tool_descriptions(self) -> dict[str, str]:
        return {tool.name: tool.description for tool in await self.client.list_tools()}

    async def call(self, name: str, arguments: dict, progress=None) -> tuple:
        result = await self.client.call_tool_mcp(name, arguments, progress_handler=progress)
        return " ".join(part.text for part in result.content), result.structured_content, bool(result.is_error)

    async def resource_descriptions(self) -> dict[str, str]:
        return {str(one.uri): one.description for one in await self.client.list_resources()}

    async def read(self, uri: str) -> str:
        return (await self.client.read_resource(uri))[0].text

    async def templates(self) -> list[str]:
        return [one.uri_template for one in await self.client.list_resource_templates()]

    async def prompt_descriptions(self) -> dict[str, str]:
        return {prompt.name: prompt.description for prompt in await self.client.list_prompts()}

    async def complete(self, reference, argument: str, value: str) -> list[str]:
        return (await self.client.complete(reference, {"name": argument, "value": value})).values

    def listen(self, **kinds):
        return listen(self.client.session, **kinds)

    async def subscribe(self, uri: str) -> None:
        await self.client.session.subscribe_resource(uri)

    async def unsubscribe(self, uri: str) -> None:
        await self.client.session.unsubscribe_resource(uri)


async def main(url: str, token: str, revision: str, servers: str, only: str = "") -> None:
    heard = script.Heard()

    async def logged(params) -> None:
        heard.logs.append(f"{params.level} {params.data}")

    async def told(message) -> None:
        if isinstance(message, types.ServerNotification):
            heard.events.append(python.named(message))

    mcp.client.session.LATEST_HANDSHAKE_VERSION = revision
    client = Client(
        url,
        auth=token,
        mode=revision if revision == python.NEWEST else "legacy",
        roots=["file:///matrix"],
        sampling_handler=lambda _messages, _params, _context: "Paris",
        elicitation_handler=elicit,
        log_handler=logged,
        message_handler=told,
        extensions=[python.Tasks(heard)],
        cache=False,
    )
    async with client:
        print(f'{{"revision": "{client.protocol_version}"}}', flush=True)
        await script.run(Fast(client, heard), servers.split(","), [name for name in only.split(",") if name])


asyncio.run(main(*sys.argv[1:]))
