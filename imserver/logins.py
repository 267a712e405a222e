"""Whose credentials came with a request or a handshake, and the connections that their handshake logs in."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import trio

from imserver.answers import ERROR
from imserver.cache import Cache
from imserver.endpoint import Deadline
from imserver.errors import FAULTS, ImError, NotAuthenticated
from imserver.identity import Credentials, Identity
from imserver.protocol.body import encode_frame
from imserver.protocol.frame import FORM

if TYPE_CHECKING:
    from imserver.router import Router
    from imserver.session import Session
    from imserver.shard import Shard


class Logins:
    """See the module.

    Args:
        shard: whose connections these are.
        router: whose plugins know the credentials.
    """

    def __init__(self, shard: Shard, router: Router) -> None:
        self._shard = shard
        self._router = router
        #: Whose credentials were found good, at which revision of the directory.
        self._identities = Cache("identities")

    async def authenticate(self, credentials: Credentials) -> Identity:
        """Whose credentials these are; remembered until they expire or anybody's end.

        Raises:
            NotAuthenticated: nobody's.
            ImError: somebody's who may not come in, or it could not be found out.
        """
        directory = self._shard.directory
        key = _digest(credentials)
        known: tuple[int, Identity] | None = self._identities.get(key)
        if known is not None and known[0] == directory.revision and not self._is_past(known[1].expires_at_ms):
            return known[1]
        revision = directory.revision
        apps = self._router.apps  # those of these authenticators, also if a plugin is reloaded meanwhile
        for owner, authenticate in self._router.authenticators:
            try:
                identity: Identity | None = await authenticate(apps[owner], credentials)
            except ImError:
                raise
            except FAULTS as exc:
                raise self._router.fault("authenticate", 0, owner, None, exc) from exc
            if identity is not None:
                self._identities.put(key, (revision, identity))
                return identity
        raise NotAuthenticated("nobody on this server knows these credentials")

    def _is_past(self, expires_at_ms: int | None) -> bool:
        return expires_at_ms is not None and self._shard.clock.now_ms() >= expires_at_ms

    def log_in(self, session: Session, credentials: Credentials) -> None:
        """Bind a connection by what its handshake showed. What it asks meanwhile waits."""
        session.in_flight += 1
        scope = trio.CancelScope()
        session.tasks.add(scope)
        session.park()
        self._shard.start_soon(self._log_in, session, credentials, scope)

    async def _log_in(self, session: Session, credentials: Credentials, scope: trio.CancelScope) -> None:
        failure: ImError | None = None
        try:
            with scope, Deadline(self._shard.limits.request_timeout_s):
                await self._bind(session, credentials)
        except ImError as exc:
            failure = exc
        except FAULTS as exc:
            failure = self._router.fault("handshake", 0, "", session, exc)
        finally:
            session.tasks.discard(scope)
            session.in_flight -= 1
        if failure is not None:
            session.send(encode_frame(ERROR, failure.answer(), (session.flags or 0) & FORM))
            session.go_away_silently()
        if session.gate is not None:
            session.open_gate()
        self._router.resume_if_free(session)
        self._shard.end_of_turn()

    async def _bind(self, session: Session, credentials: Credentials) -> None:
        directory = self._shard.directory
        is_bound = False
        while True:
            revision = directory.revision
            identity = await self.authenticate(credentials)
            if session.is_closed:
                return
            if identity.user_id is None:
                raise NotAuthenticated("these credentials are those of a back end, not of a user; use them over HTTP")
            session.roles = identity.roles
            session.scopes = identity.scopes
            session.expires_at_ms = identity.expires_at_ms
            if not is_bound:
                replaced = session.bind(identity.user_id, identity.session_id, identity.device_id or None)
                if replaced is not None:
                    replaced.revoke("replaced", "this device has logged in on another connection")
                self._router.logged_in(session)
                is_bound = True
            if directory.revision == revision:
                return  # whoever ends a session from now on finds this one in the directory


def _digest(credentials: Credentials) -> bytes:
    """What is remembered of credentials: not themselves. The address is no part of them."""
    shown = (credentials.token, credentials.api_key, credentials.acting_for, credentials.certificate)
    return hashlib.sha256(repr(shown).encode()).digest()
