"""Sends each line that it reads as a message and prints each message: ws_lines.py URL TOKEN"""

import asyncio
import json
import sys

import websockets
from websockets.asyncio.client import connect


async def send_lines(socket) -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        await socket.send(line.decode())


async def main(url: str, token: str) -> None:
    async with connect(url, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None) as socket:
        print('"open"', flush=True)
        sending = asyncio.create_task(send_lines(socket))
        try:
            while True:
                print(await socket.recv(), flush=True)
        except websockets.ConnectionClosed as closed:
            print(json.dumps({"close": closed.rcvd.code if closed.rcvd else None}), flush=True)
        sending.cancel()


asyncio.run(main(*sys.argv[1:]))
