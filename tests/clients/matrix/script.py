"""What a Python client of the matrix does, one method after another, at one server after another.

Each outcome is a line of JSON: server, method, and what was seen; or why it did not work.
"""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from functools import partial

TRIES = 10
PATIENCE = 2.0


class Lacking(Exception):
    """The SDK has no way to do it."""


class Heard:
    """What the server told without being asked."""

    def __init__(self) -> None:
        self.logs: list[str] = []
        self.events: list[str] = []
        self.tasks = 0

    async def wait(self, event: str) -> bool:
        for _ in range(int(PATIENCE / 0.02)):
            if event in self.events:
                return True
            await asyncio.sleep(0.02)
        return False


async def until_seen(
    heard: Heard, event: str, change: Callable[[], Awaitable[int]], seen: Callable[[], Awaitable[int]]
) -> str:
    """Changes something until it is heard of: a session's stream does not say when it has begun.

    What is heard may be of a change that another client made; whoever looks again each time has to see its own in the end.
    """
    for _ in range(TRIES):
        heard.events.clear()
        made = await change()
        told = await heard.wait(event)
        while told:
            heard.events.clear()
            if await seen() >= made:
                return event
            if not await heard.wait(event):
                raise RuntimeError(f"{event}: the last that is told of is not {made} changes")
    raise TimeoutError(f"{event} was not heard of")


def times(said: str) -> int:
    """How often something says that it has been changed."""
    return int(said.split()[1])


async def run(client, servers: list[str], only: list[str]) -> None:
    """Runs all methods of `client`, which has one function for each."""
    for server in servers:
        for method in only or METHODS:
            line: dict = {"server": server, "method": method}
            try:
                async with asyncio.timeout(30):
                    line["saw"] = await METHODS[method](client, server)
            except Exception as error:  # the outcome is what is tested
                line["failed"] = f"{type(error).__name__}: {error}"
            print(json.dumps(line), flush=True)


async def tools(client, server: str) -> str:
    listed = await client.tools()
    text, structured, _ = await client.call(f"{server}_add", {"a": 2, "b": 3})
    said, _, failed = await client.call(f"{server}_fail", {})
    return f"listed {f'{server}_add' in listed}, sum {text} {json.dumps(structured)}, failed {failed}: {said}"


async def resources(client, server: str) -> str:
    listed = await client.resources()
    return f"listed {f'{server}://note' in listed}, {await client.read(f'{server}://note')}"


async def templates(client, server: str) -> str:
    listed = await client.templates()
    return f"listed {f'{server}://item/{{id}}' in listed}, {await client.read(f'{server}://item/7')}"


async def prompts(client, server: str) -> str:
    listed = await client.prompts()
    return f"listed {f'{server}_greet' in listed}, {await client.prompt(f'{server}_greet', {'name': 'Ana'})}"


async def completion(client, server: str) -> str:
    names = await client.complete_prompt(f"{server}_greet", "name", "An")
    items = await client.complete_template(f"{server}://item/{{id}}", "id", "1")
    return f"{' '.join(names)}, {' '.join(items)}"


async def logging(client, server: str) -> str:
    await client.level("warning")
    client.heard.logs.clear()
    await client.call(f"{server}_log", {})
    await asyncio.sleep(0)
    return " ".join(client.heard.logs)


def asks(tool: str) -> Callable:
    async def asked(client, server: str) -> str:
        text, _, failed = await client.call(f"{server}_{tool}", {})
        if failed:
            raise RuntimeError(text)
        return text

    return asked


async def progress(client, server: str) -> str:
    told: list[str] = []

    async def tell(done: float, total: float | None, message: str | None) -> None:
        told.append(f"{done:g}/{total:g} {message}")

    text, _, _ = await client.call(f"{server}_progress", {}, tell)
    return f"{', '.join(told)}, {text}"


async def cancellation(client, server: str) -> str:
    mark = uuid.uuid4().hex
    began = asyncio.Event()

    async def tell(*_) -> None:
        began.set()

    call = asyncio.create_task(client.call(f"{server}_slow", {"mark": mark}, tell))
    await began.wait()
    call.cancel()
    await asyncio.wait([call])
    for _ in range(100):
        text, _, _ = await client.call(f"{server}_how_far", {"mark": mark})
        if text == "cancelled":
            return text
        await asyncio.sleep(0.05)
    raise TimeoutError(f"still {text}")


async def change(client, server: str, what: str) -> int:
    """Changes something; returns how often it has been changed."""
    text, _, _ = await client.call(f"{server}_change", {"what": what})
    return int(text)


async def list_changes(client, server: str) -> str:
    told = []
    async with client.listening(lists=True):
        for what, item, listed in [
            ("tools", f"{server}_change", client.tool_descriptions),
            ("prompts", f"{server}_greet", client.prompt_descriptions),
            ("resources", f"{server}://note", client.resource_descriptions),
        ]:

            async def seen(listed=listed, item=item) -> int:
                return times((await listed())[item])

            told.append(await until_seen(client.heard, what, partial(change, client, server, what), seen))
    return " ".join(told)


async def subscriptions(client, server: str) -> str:
    uri = f"{server}://watched"

    async def seen() -> int:
        return times(await client.read(uri))

    async with client.listening(uri=uri):
        return f"updated {await until_seen(client.heard, uri, partial(change, client, server, 'watched'), seen)}"


async def tasks(client, server: str) -> str:
    client.heard.tasks = 0
    text = await asks("task")(client, server)
    return f"a task: {text}" if client.heard.tasks else text


METHODS = {
    "tools": tools,
    "resources": resources,
    "templates": templates,
    "prompts": prompts,
    "completion": completion,
    "logging": logging,
    "roots": asks("roots"),
    "sampling": asks("sample"),
    "form": asks("form"),
    "url": asks("url"),
    "progress": progress,
    "cancellation": cancellation,
    "list_changes": list_changes,
    "subscriptions": subscriptions,
    "tasks": tasks,
}
