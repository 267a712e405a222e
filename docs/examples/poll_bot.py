"""A bot that takes votes: `/poll Lunch? | pizza | soup`, `/vote 2`, `/result`. One poll a conversation, one vote a user.

Usage: python poll_bot.py NAME PASSWORD [host:port]
"""

import sys
from dataclasses import dataclass, field

import trio

from imserver.client import open_client


@dataclass
class Poll:
    question: str
    options: list[str]
    votes: dict[str, int] = field(default_factory=dict)  # the option's index, by user

    def __str__(self) -> str:
        counts = [list(self.votes.values()).count(index) for index in range(len(self.options))]
        lines = [f"{index + 1}. {option}: {counts[index]}" for index, option in enumerate(self.options)]
        return "\n".join([self.question, *lines])


def answer(polls: dict[str, Poll], conversation_id: str, user: str, text: str) -> str | None:
    """What the bot says to a message; None: nothing."""
    command, _, rest = text.partition(" ")
    poll = polls.get(conversation_id)
    if command == "/poll":
        question, *options = [part.strip() for part in rest.split("|")]
        if not 2 <= len(options) <= 20:
            return "say /poll question | option | option"
        poll = polls[conversation_id] = Poll(question, options)
        return f"{poll}\nsay /vote and a number"
    if command not in ("/vote", "/result"):
        return None
    if poll is None:
        return "there is no poll here; /poll begins one"
    if command == "/vote":
        number = int(rest) if rest.isdecimal() and len(rest) < 4 else 0
        if not 1 <= number <= len(poll.options):
            return f"say a number from 1 to {len(poll.options)}"
        poll.votes[user] = number - 1
    return str(poll)


async def main(name: str, password: str, address: str = "127.0.0.1:9000") -> None:
    polls: dict[str, Poll] = {}
    async with open_client(address) as client:
        await client.login(name, password, device_id="bot")
        print(f"{name} takes votes; Ctrl-C ends it", file=sys.stderr)
        async for message in client.messages():
            if message.from_ != name and message.type == "text":
                said = answer(polls, message.conversation_id, message.from_, message.body)
                if said is not None:
                    await client.send(message.conversation_id, said, client_id=f"poll-{message.message_id}")


if __name__ == "__main__":
    try:
        trio.run(main, *sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(0)
