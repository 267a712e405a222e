"""TLS: sockets that encrypt, and the certificate that they show.

`TlsSocket` looks like a non-blocking socket to the reactor; `ssl.MemoryBIO` is inside, so the kernel's socket stays ours
to watch. `ServerTls` is the `[tls]` section come to life.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import attrs

from imserver.errors import StartError
from imserver.log import get_logger

if TYPE_CHECKING:
    from imserver.config import Tls

#: What one `recv_into` takes from the kernel. With a record that was begun before (16 KiB and its frame) it stays below
#: the buffer's size: no plaintext is left behind.
CIPHERTEXT_BYTES = 32 * 1024
BUFFER_BYTES = 64 * 1024
#: What is encrypted at once: the content of one record (RFC 8446, section 5.1).
PIECE_BYTES = 16 * 1024
#: More answers than this (key updates, refused renegotiations) that the peer does not read are an attack. Above one piece
#: and the longest flight of a handshake.
MAX_UNSENT_BYTES = 256 * 1024
#: What is read and dropped behind a failure, so that the kernel does not answer the close with a reset, which would take
#: the alert from the peer.
_DROPPED_READS = 8
#: A certificate that ends sooner than this is worth a warning.
_EXPIRES_SOON = timedelta(days=7)

_PLAIN_TEXT = b"this port speaks TLS; use https://\n"
_PLAIN_HTTP_ANSWER = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
    % (len(_PLAIN_TEXT), _PLAIN_TEXT)
)


class TlsSocket:
    """The server's end of a TLS connection over a non-blocking socket, with a socket's methods.

    The handshake happens inside `recv_into`. Two things differ from a plain socket: `send` blocks until the handshake is
    done, however writable the descriptor is; and after any call some ciphertext may be left (`has_unsent`): then wait for
    the descriptor to be writable and call `flush`.

    Args:
        sock: connected and non-blocking; it is closed with this.
        context: the server's.
    """

    __slots__ = (
        "_certificate",
        "_error",
        "_has_ended",
        "_how",
        "_incoming",
        "_is_shut",
        "_outgoing",
        "_send_error",
        "_socket",
        "_ssl",
        "_unsent",
        "failure",
        "handshake_done",
    )

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._socket = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._unsent = memoryview(b"")  # ciphertext that the kernel did not take
        self._has_ended = False  # the peer said close_notify
        self._certificate: dict[str, Any] | None = None
        self._error: OSError | None = None
        self._send_error: OSError | None = None
        self._is_shut = False  # we said close_notify
        self._how: int | None = None  # the kernel's shutdown, once all is sent
        self.handshake_done = False
        #: Why TLS failed, in a few words for the log.
        self.failure: str | None = None

    # ------------------------------------------------------------ reading

    def recv_into(self, buffer: bytearray | memoryview) -> int:
        """Read from the kernel once and give all the plaintext that this makes.

        What arrives together with the end or with a fault is given first; the descriptor stays readable for the next call
        to tell.

        Args:
            buffer: of `BUFFER_BYTES` at least; also the room for the ciphertext, so all of it may be written to.

        Returns:
            The number of bytes of plaintext; 0 at the end: close_notify, or the connection was closed without.

        Raises:
            BlockingIOError: no plaintext yet; the handshake may have gone on.
            OSError: the connection is broken. TLS is (`ssl.SSLError`): the peer has been told by an alert, see `failure`.
        """
        if self._error is not None:
            raise self._error
        if self._has_ended:
            return 0
        view = memoryview(buffer)
        if len(view) < BUFFER_BYTES:
            raise ValueError(f"the buffer has {len(view)} bytes; {BUFFER_BYTES} are needed")
        ciphertext = self._socket.recv_into(view, CIPHERTEXT_BYTES)
        if not ciphertext:
            self._note_truncation()
            return 0
        self._incoming.write(view[:ciphertext])
        count = 0
        try:
            if not self.handshake_done:
                self._ssl.do_handshake()
                # Now, while there is a handshake to speak of: after a fault OpenSSL denies that it was ever done.
                self._certificate = self._read_certificate()
                self.handshake_done = True
            while not self._has_ended:
                got = self._read(view[count:])
                self._has_ended = not got
                count += got
        except ssl.SSLWantReadError:
            pass  # all that was there is read
        except ssl.SSLZeroReturnError:
            self._has_ended = True
        except ssl.SSLError as exc:
            self._fail(exc)
        self._flush_answers()
        if self._error is not None or self._has_ended:
            # Nothing more may come from the kernel, and yet there is something to tell: keep the descriptor readable.
            self._end_reading()
        if count:
            return count
        if self._error is not None:
            raise self._error
        if self._has_ended:
            return 0
        raise BlockingIOError("no plaintext yet")

    def _read(self, view: memoryview) -> int:
        """The plaintext of one record. (The stubs know neither this result nor that any buffer will do.)"""
        return cast(int, self._ssl.read(len(view), view))  # type: ignore[arg-type,unused-ignore]

    def _read_certificate(self) -> dict[str, Any] | None:
        try:
            return self._ssl.getpeercert() or None
        except ValueError as exc:  # names in it that are no text
            raise ssl.SSLError("the client's certificate cannot be read") from exc

    def _flush_answers(self) -> None:
        """Send what TLS itself has to say. It must not be lost, nor may a peer that reads nothing make it grow."""
        # If it fails, the peer has closed; what it said before is still read, and the kernel tells the end.
        self.flush()
        if len(self._unsent) + self._outgoing.pending > MAX_UNSENT_BYTES:
            self.failure = "the peer does not read what TLS answers"
            self._error = ssl.SSLError(self.failure)

    def _fail(self, exc: ssl.SSLError) -> None:
        self._error = exc
        self.failure = _reason(exc)
        if exc.reason == "HTTP_REQUEST":
            self._unsent = memoryview(_PLAIN_HTTP_ANSWER)  # it would not understand an alert

    def _end_reading(self) -> None:
        # An error here is that of a connection that is gone: the descriptor tells that by itself.
        with contextlib.suppress(OSError):
            if self._error is not None:
                for _ in range(_DROPPED_READS):
                    if not self._socket.recv(CIPHERTEXT_BYTES):
                        break
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def _note_truncation(self) -> None:
        if self.failure is None:
            self.failure = "closed without close_notify" if self.handshake_done else "closed during the handshake"

    # ------------------------------------------------------------ writing

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Encrypt and send as much as the kernel takes, and one piece more at most: that is kept, see `has_unsent`.

        Returns:
            The number of bytes of plaintext taken.

        Raises:
            BlockingIOError: the handshake is not done, or earlier ciphertext waits (`has_unsent`).
            OSError: the connection is broken, or was shut down.
        """
        if self._is_shut:
            raise BrokenPipeError("the connection was shut down")
        if self._send_error is not None:
            raise self._send_error
        if not self.handshake_done:
            raise BlockingIOError("the handshake is not done")
        if not self.flush():
            raise BlockingIOError("earlier ciphertext waits")
        view = memoryview(data)
        taken = 0
        while taken < len(view):
            taken += self._ssl.write(view[taken : taken + PIECE_BYTES])
            if not self.flush():
                break
        return taken

    def flush(self) -> bool:
        """Send ciphertext that waits; whether none is left to wait for.

        It never raises. When the connection is broken what waited is dropped; the next `send` raises, and the descriptor
        tells it to `recv_into`.
        """
        try:
            while self.has_unsent:
                if not self._unsent:
                    self._unsent = memoryview(self._outgoing.read())
                if self._send_error is None:
                    self._unsent = self._unsent[self._socket.send(self._unsent) :]
                else:
                    self._unsent = memoryview(b"")
            if self._how is not None:
                how, self._how = self._how, None
                self._socket.shutdown(how)
        except BlockingIOError:
            return False
        except OSError as exc:
            self._send_error = exc
            return self.flush()
        return True

    @property
    def has_unsent(self) -> bool:
        """Ciphertext waits for the descriptor to be writable; call `flush` then."""
        return bool(self._unsent) or self._outgoing.pending > 0

    # ------------------------------------------------------------ the end

    def shutdown(self, how: int) -> None:
        """Say close_notify, then shut down the kernel's socket: at once, or by the `flush` that sends the last ciphertext.

        Raises:
            OSError: the connection is broken; TLS is (`ssl.SSLError`).
        """
        if how != socket.SHUT_RD:
            if self.handshake_done and not self._is_shut and self._error is None:
                # It asks for the peer's answer, which `recv_into` will read; ours is made.
                with contextlib.suppress(ssl.SSLWantReadError):
                    self._ssl.unwrap()
            self._is_shut = True
            self._how = how
            self.flush()
        else:
            self._socket.shutdown(how)

    def close(self) -> None:
        """Close the socket, with close_notify if that is still possible; ciphertext that waits is lost."""
        if self.handshake_done and self._send_error is None and self.fileno() >= 0:
            with contextlib.suppress(OSError):  # it is closed one way or the other
                self.shutdown(socket.SHUT_WR)
        self._socket.close()

    # ------------------------------------------------------------ what it is

    def fileno(self) -> int:
        """The kernel's descriptor, -1 once closed."""
        return self._socket.fileno()

    def peer_certificate(self) -> dict[str, Any] | None:
        """The client's certificate as `ssl.SSLSocket.getpeercert` shows it; None: it has shown none (or not yet)."""
        return self._certificate

    def version(self) -> str | None:
        """ "TLSv1.3", "TLSv1.2", or None before the handshake is done."""
        return self._ssl.version() if self.handshake_done else None

    def alpn(self) -> str | None:
        """The application protocol that both ends agreed on, if they did."""
        return self._ssl.selected_alpn_protocol() if self.handshake_done else None


def _reason(exc: ssl.SSLError) -> str:
    """What went wrong, in words: OpenSSL's own, without file and line."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"certificate: {exc.verify_message}"
    return (exc.reason or str(exc)).lower().replace("_", " ")


# ---------------------------------------------------------------- the server's certificate


@attrs.frozen
class _Loaded:
    """What was read from the files; replaced as one."""

    tcp: ssl.SSLContext
    http: ssl.SSLContext
    valid_from: datetime
    expires_at: datetime


class ServerTls:
    """The certificate, its key and the rules for clients' certificates, from the `[tls]` section.

    `wrap` may be called from any thread, also while another one is in `reload`.

    Args:
        settings: the section.

    Raises:
        StartError: a file is missing, cannot be read or is not what it should be; the message names it.
    """

    def __init__(self, settings: Tls) -> None:
        self._settings = settings
        self._log = get_logger("tls")
        self._loaded = self._load()

    @property
    def expires_at(self) -> datetime:
        """When the server's certificate ends (UTC)."""
        return self._loaded.expires_at

    def wrap(self, sock: socket.socket, *, is_http: bool = False) -> TlsSocket:
        """TLS over an accepted, non-blocking connection.

        Args:
            sock: from now on the TlsSocket's.
            is_http: agree on HTTP/1.1 (ALPN). Other listeners agree on nothing, so that no browser takes one of them for a
                web server (the ALPACA attack), nor a ticket of the one for the other.
        """
        loaded = self._loaded
        return TlsSocket(sock, loaded.http if is_http else loaded.tcp)

    def reload(self) -> None:
        """Read the files again, for connections from now on; those that are open go on as they are.

        If anything is wrong with the files, that is logged and the certificate stays. Reads files: not for a shard's
        thread.
        """
        try:
            self._loaded = self._load()
        except StartError as exc:
            self._log.error("tls_reload_failed", reason=str(exc), advice="the certificate in use stays")
            return
        self._log.info("tls_reloaded", expires_at=_shown(self._loaded.expires_at))

    def _load(self) -> _Loaded:
        settings = self._settings
        certificate = _read_pem(settings.certificate, "CERTIFICATE", "the certificate (with its chain)")
        _read_pem(settings.key, "PRIVATE KEY", "the private key")
        valid_from, expires_at = _validity(certificate, settings.certificate)
        loaded = _Loaded(_context(settings), _context(settings), valid_from, expires_at)
        loaded.http.set_alpn_protocols(["http/1.1"])
        self._warn(loaded)
        return loaded

    def _warn(self, loaded: _Loaded) -> None:
        settings, now = self._settings, datetime.now(UTC)
        about = {"certificate": str(settings.certificate), "expires_at": _shown(loaded.expires_at)}
        if loaded.expires_at <= now:
            self._log.warning(
                "tls_certificate_expired", **about, advice="clients will refuse it; renew it, then send SIGHUP"
            )
        elif loaded.expires_at - now < _EXPIRES_SOON:
            self._log.warning("tls_certificate_expires_soon", **about, advice="renew it, then send SIGHUP")
        if loaded.valid_from > now:
            self._log.warning("tls_certificate_not_yet_valid", **about, valid_from=_shown(loaded.valid_from))
        if settings.key.stat().st_mode & stat.S_IRWXO:
            self._log.warning("tls_key_open_to_all", key=str(settings.key), advice="chmod o= it")


def _shown(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _read_pem(path: Path, block: str, what: str) -> str:
    """The first PEM block of this kind in a file."""
    try:
        text = path.read_text("ascii", errors="replace")
    except OSError as exc:
        raise StartError(f"{path}: {what} cannot be read: {exc.strerror or exc}") from exc
    begin = text.find("-----BEGIN ")
    while begin >= 0:
        line = text[begin : text.find("\n", begin)].strip()
        if line.removesuffix("-----").endswith(block):
            end = text.find("-----END ", begin)
            return text[begin : text.find("-----", end + 9) + 5] if end >= 0 else text[begin:]
        begin = text.find("-----BEGIN ", begin + 1)
    raise StartError(f"{path}: expected {what}, in PEM form: there is no `-----BEGIN {block}-----` in it")


def _context(settings: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # For TLS 1.2: forward secrecy and authenticated encryption only, as TLS 1.3 has nothing else.
    context.set_ciphers("@SECLEVEL=2:ECDHE+AESGCM:ECDHE+CHACHA20")
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    _load_chain(context, settings)
    if settings.client_certificates == "none":
        return context
    if settings.client_ca is None:
        raise StartError(
            f'tls.client_certificates = "{settings.client_certificates}" needs tls.client_ca: '
            "a PEM file with the authority that signs the clients' certificates"
        )
    _read_pem(settings.client_ca, "CERTIFICATE", "the certificate of the clients' authority")
    try:
        context.load_verify_locations(settings.client_ca)
    except ssl.SSLError as exc:
        raise StartError(
            f"{settings.client_ca}: the certificate of the clients' authority is damaged: {_reason(exc)}"
        ) from exc
    # The authority in the file is trusted as it is, though another may have signed it.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.verify_mode = ssl.CERT_REQUIRED if settings.client_certificates == "required" else ssl.CERT_OPTIONAL
    return context


def _load_chain(context: ssl.SSLContext, settings: Tls) -> None:
    was_asked = False

    def no_passphrase() -> str:
        nonlocal was_asked
        was_asked = True
        return ""

    try:
        context.load_cert_chain(settings.certificate, settings.key, no_passphrase)
    except OSError as exc:  # ssl.SSLError too; a file may also have gone in the meantime
        if was_asked:
            reason = (
                f"{settings.key}: the private key is encrypted; store it without a passphrase, readable by the server alone"
            )
        elif isinstance(exc, ssl.SSLError) and exc.reason == "KEY_VALUES_MISMATCH":
            reason = f"{settings.key}: the private key does not belong to the certificate {settings.certificate}"
        elif isinstance(exc, ssl.SSLError):
            reason = f"{settings.certificate} with {settings.key}: the certificate or the key is damaged: {_reason(exc)}"
        else:
            reason = f"{settings.certificate} or {settings.key} cannot be read: {exc.strerror or exc}"
        raise StartError(reason) from exc


def _validity(pem: str, path: Path) -> tuple[datetime, datetime]:
    """From when to when a certificate is valid (RFC 5280, section 4.1: TBSCertificate.validity)."""
    try:
        _, certificate, _ = _der(ssl.PEM_cert_to_DER_cert(pem))
        _, fields, _ = _der(certificate)
        tag, _, rest = _der(fields)
        if tag == 0xA0:  # the version, which only version 1 leaves out; the serial number is next
            _, _, rest = _der(rest)
        for _ in range(2):  # the signature's algorithm, the issuer
            _, _, rest = _der(rest)
        _, validity, _ = _der(rest)
        begin_tag, begin, rest = _der(validity)
        end_tag, end, _ = _der(rest)
        return _time(begin_tag, begin), _time(end_tag, end)
    except (ValueError, IndexError) as exc:
        raise StartError(f"{path}: the certificate is damaged: {exc}") from exc


def _der(data: bytes) -> tuple[int, bytes, bytes]:
    """One element of DER (X.690): its tag, its content, and what follows it."""
    tag, size, start = data[0], data[1], 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(data[2:start], "big")
    if start + size > len(data):
        raise ValueError("it is cut off")
    return tag, data[start : start + size], data[start + size :]


def _time(tag: int, content: bytes) -> datetime:
    """A UTCTime (two digits of the year: 1950 to 2049) or a GeneralizedTime."""
    text = content.decode("ascii")
    if tag == 0x17:
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
