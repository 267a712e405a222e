"""Between this plugin and its providers: plugins that hand a push to Apple, to Google, or to whoever else.

A provider announces itself in its `on_start`, each time that runs:

    ctx.emit("push.provider", provider=self)

It needs to import nothing from here (plugins do not import each other): what it has to be is `Provider`, what it is given
is a `Push`, and what it may raise are errors of `imserver.plugin`.
"""

from __future__ import annotations

from typing import Protocol

from attrs import frozen


@frozen
class Push:
    """What one device is to show.

    Attributes:
        token, app: of the device, as it has registered them; `app` is "" where it gave none.
        user_id: whose device it is.
        conversation_id, seq, message_id, sender, type, sent_at: of the message.
        title: the sender's nickname.
        text: what was written, in short; or something that says as much as the settings allow.
        unread: of this conversation.
        badge: unread of all conversations that the user has not muted; exact when this was made.
        collapse_id: the same for all pushes of one conversation: a newer one takes an older one's place. 32 characters.
        expires_at: milliseconds since the Unix epoch; later nobody need be told any more.
    """

    token: str
    app: str
    user_id: str
    conversation_id: str
    seq: int
    message_id: str
    sender: str
    type: str
    sent_at: int
    title: str
    text: str
    unread: int
    badge: int
    collapse_id: str
    expires_at: int


class Provider(Protocol):
    """A way to devices. It is called in the thread that its `on_start` ran in."""

    #: What devices name it by in SET_PUSH_TOKEN.
    @property
    def provider(self) -> str: ...

    def check_token(self, token: str, app: str) -> str | None:
        """Refuse what can be no token.

        Returns the token in the one spelling that it has, so that a device is known as the same; None: as it is.

        Raises:
            InvalidBody: that is the case.
        """

    async def send(self, push: Push) -> None:
        """Hand over one push; it may come twice. The caller has a deadline for it.

        Raises:
            NotFound: there is no such device any more; its token is forgotten.
            RateLimited: too many for this device; it is tried again, `retry_after_ms` later at the earliest.
            Unavailable, DeadlineExceeded, OSError: the provider does not work just now; all its pushes wait, for
                `retry_after_ms` at least.
            ImError: any other: this push is refused for good.
        """
