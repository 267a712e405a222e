"""A bot that says again what it is told.

Usage: python echo_bot.py NAME PASSWORD [host:port]
"""

import sys

import trio

from imserver.client import open_client


async def main(name: str, password: str, address: str = "127.0.0.1:9000") -> None:
    async with open_client(address) as client:
        await client.login(name, password, device_id="bot")
        print(f"{name} echoes; Ctrl-C ends it", file=sys.stderr)
        async for message in client.messages():
            if message.from_ != name and message.type == "text":
                # The client_id names what is answered: after a crash the same answer is stored once.
                await client.send(message.conversation_id, message.body, client_id=f"echo-{message.message_id}")


if __name__ == "__main__":
    try:
        trio.run(main, *sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(0)
