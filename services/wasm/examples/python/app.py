"""A plugin in Python: reads a file of the folder that it was granted."""

import json

import wit_world
from componentize_py_types import Err
from wit_world.imports import host

READ = {
    "name": "read",
    "description": "Returns the first line of a file in the granted folder.",
    "inputSchema": {
        "type": "object",
        "properties": {"path": {"type": "string"}},
        "required": ["path"],
    },
}


class WitWorld(wit_world.WitWorld):
    def list_tools(self) -> list[str]:
        return [json.dumps(READ)]

    def call_tool(self, name: str, arguments: str) -> str:
        path = json.loads(arguments)["path"]
        host.log(host.Level.INFO, "reading")
        try:
            with open(f"/data/{path}", encoding="utf-8") as file:
                return json.dumps({"line": file.readline().rstrip("\n")})
        except OSError as error:
            raise Err(f"{path} cannot be read: {error.strerror}") from error
