"""An MCP server over standard input and output whose one tool works well, fails, or takes its time: work_server.py good|failing|slow"""

import asyncio
import sys

from mcp.server import MCPServer
from mcp.types import ToolAnnotations

how = sys.argv[1]
server = MCPServer("work")


@server.tool(annotations=ToolAnnotations(read_only_hint=True, idempotent_hint=True))
async def work(text: str) -> str:
    """Works on a text."""
    if how == "failing":
        raise ValueError("this release is broken")
    if how == "slow":
        await asyncio.sleep(1.5)
    return text.upper()


server.run("stdio")
