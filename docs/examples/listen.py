"""Print every message to one user, also those that came while this program was not running.

Usage: python listen.py NAME PASSWORD [host:port]
"""

import sys

import trio

from imserver.client import open_client


async def main(name: str, password: str, address: str = "127.0.0.1:9000") -> None:
    async with open_client(address) as client:
        await client.login(name, password, device_id="terminal")
        print(f"{name} listens; Ctrl-C ends it", file=sys.stderr)
        async for message in client.messages():
            print(f"{message.from_}: {message.body}", flush=True)


try:
    trio.run(main, *sys.argv[1:])
except KeyboardInterrupt:
    sys.exit(0)
