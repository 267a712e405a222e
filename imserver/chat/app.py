"""Logs in, and runs one of the two faces until the user goes."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Literal, Protocol

import attrs
import trio

from imserver.chat.doing import Doing
from imserver.chat.errors import CannotDo, Quit
from imserver.chat.session import Face, Session
from imserver.chat.tokens import TokenFile, new_device_id
from imserver.client import Client, ClientError, Unauthenticated, open_client

#: A person who waits is one client, not a thousand: it tries again sooner than programs do.
BACKOFF_MAX_S: Final = 5.0
PLATFORM: Final = "terminal"
LOGIN_TIMEOUT_S: Final = 20.0
LOGOUT_TIMEOUT_S: Final = 5.0


class PasswordWanted(Exception):
    """There is no remembered token, or it is no longer good."""


class Screen(Face, Protocol):
    """A face that runs."""

    is_patient: bool  #: The user is there to mend what went wrong.

    def host(self, main: Callable[[], Awaitable[int]]) -> int:
        """Run the program that will call `run`, in the loop that this face wants."""

    async def run(self, doing: Doing) -> int:
        """Serve the user until they go; returns the exit status.

        Raises:
            Quit: as they have said.
        """


@attrs.frozen
class Options:
    """What the command line says.

    Attributes:
        password: None to use the remembered token.
        tokens: the file of --remember; None without it.
        to: whom to write to at first.
        folder: where received files go.
    """

    address: str
    user_id: str
    password: str | None = attrs.field(default=None, repr=False)
    register: bool = False
    tokens: TokenFile | None = None
    to: str | None = None
    folder: Path = attrs.Factory(Path.cwd)
    ssl_context: ssl.SSLContext | None = None
    http: str | None = None
    history: Literal["new", "unread"] = "new"


async def chat(options: Options, screen: Screen) -> int:
    """Run a chat; returns the exit status.

    Raises:
        PasswordWanted: ask the user, and call again.
        ClientError: the login is refused, or the session ended.
    """
    async with open_client(
        options.address,
        ssl_context=options.ssl_context,
        http=options.http,
        history=options.history,
        backoff_max_s=BACKOFF_MAX_S,
    ) as client:
        events = client.events()
        device_id = await _log_in(client, options)
        session = Session(client, screen, options.folder)
        keep = _Keeper(client, options.tokens, device_id)
        try:
            keep.save()
            return await _serve(session, options, screen, lambda: session.follow_events(events), keep)
        except Quit as going:
            if going.forget:
                await _log_out(client, options.tokens)
            return 0
        finally:
            keep.save()


class _Keeper:
    """Keeps the token file as new as the tokens: a refresh token is dead once it was used."""

    def __init__(self, client: Client, tokens: TokenFile | None, device_id: str) -> None:
        self._client = client
        self._tokens = tokens
        self._device_id = device_id
        self._saved = ""

    def save(self) -> None:
        credentials = self._client.credentials
        if self._tokens is not None and credentials is not None and credentials.token != self._saved:
            self._tokens.save(credentials, self._device_id)
            self._saved = credentials.token

    async def follow(self) -> None:
        """Save at each reconnect, which is when a token is renewed."""
        while True:
            await self._client.wait_connected()
            self.save()
            await self._client.wait_connected(False)


async def _log_in(client: Client, options: Options) -> str:
    remembered = options.tokens.load() if options.tokens is not None else None
    device_id = remembered.device_id if remembered is not None else new_device_id()
    if options.password is not None:
        if options.register:
            await client.register(options.user_id, options.password)
        await client.login(
            options.user_id, options.password, device_id=device_id, platform=PLATFORM, timeout_s=LOGIN_TIMEOUT_S
        )
    elif remembered is None:
        raise PasswordWanted
    else:
        try:
            await client.auth(
                remembered.token,
                refresh_token=remembered.refresh_token,
                device_id=device_id,
                platform=PLATFORM,
                timeout_s=LOGIN_TIMEOUT_S,
            )
        except Unauthenticated as error:
            raise PasswordWanted from error
    return device_id


async def _serve(
    session: Session, options: Options, screen: Screen, follow_events: Callable[[], Awaitable[None]], keep: _Keeper
) -> int:
    """Run the face beside what follows the server; whichever fails, ends the others."""
    status = 0
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.follow_messages)
            nursery.start_soon(follow_events)
            nursery.start_soon(keep.follow)
            await session.load()
            nursery.start_soon(session.follow_connection)
            nursery.start_soon(session.follow_peers)
            doing = Doing(session)
            if options.to is not None:
                try:
                    await doing.open(await doing.find(options.to))
                except CannotDo as error:
                    if not screen.is_patient:
                        raise
                    screen.say(str(error))
            status = await screen.run(doing)
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        failure = group
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
    if failure is not None:
        raise failure
    return status


async def _log_out(client: Client, tokens: TokenFile | None) -> None:
    with trio.move_on_after(LOGOUT_TIMEOUT_S):
        try:
            await client.logout()
        except ClientError:
            if tokens is None:
                raise
    if tokens is not None:
        tokens.clear()
