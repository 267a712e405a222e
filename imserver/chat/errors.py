"""What a command of the user's may come to, beside what it is for."""

from __future__ import annotations


class CannotDo(Exception):
    """What the user asked for cannot be done; the text says why."""


class Quit(Exception):
    """The user wants to go. `forget`: and to log out, so that the token is not kept."""

    def __init__(self, *, forget: bool = False) -> None:
        super().__init__("quit")
        self.forget = forget
