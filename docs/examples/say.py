"""Send one message.

Usage: python say.py NAME PASSWORD TO TEXT [host:port]
"""

import sys

import trio

from imserver.client import open_client


async def main(name: str, password: str, to: str, text: str, address: str = "127.0.0.1:9000") -> None:
    async with open_client(address) as client:
        await client.login(name, password, device_id="say")
        sent = await client.send(to, text)
        print(f"on disk as number {sent.seq} of {sent.conversation_id}")


trio.run(main, *sys.argv[1:])
