"""An MCP server of revision 2026-07-28 on a free port of loopback, which it prints."""

import asyncio
import socket

import uvicorn
from mcp.server.mcpserver import Context, MCPServer

mcp = MCPServer("modern")


@mcp.tool()
def echo(message: str) -> str:
    """Says it again."""
    return message


@mcp.tool()
async def slow(seconds: float, ctx: Context) -> str:
    """Takes its time and tells of it."""
    for step in range(4):
        await ctx.report_progress(step, 4)
        await asyncio.sleep(seconds / 4)
    return "done"


@mcp.tool()
async def grow(ctx: Context) -> str:
    """Adds a tool."""
    mcp.add_tool(lambda: "new", name="grown", description="It was not there before.")
    await ctx.notify_tools_changed()
    return "grown"


@mcp.resource("x://watched")
def watched() -> str:
    return "as it is"


@mcp.tool()
async def touch(ctx: Context) -> str:
    """Says that a resource has changed."""
    await ctx.notify_resource_updated("x://watched")
    return "touched"


listener = socket.create_server(("127.0.0.1", 0))
print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
app = mcp.streamable_http_app(stateless_http=True)
server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
asyncio.run(server.serve(sockets=[listener]))
