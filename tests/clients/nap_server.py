"""An MCP server over standard input and output whose one tool takes as long as it is told."""

import asyncio

from mcp.server import MCPServer

server = MCPServer("nap")


@server.tool()
async def nap(ms: int) -> str:
    """Waits for so many milliseconds."""
    await asyncio.sleep(ms / 1000)
    return "rested"


server.run("stdio")
