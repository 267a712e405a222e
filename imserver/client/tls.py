"""TLS over a stream, and what its failures mean."""

from __future__ import annotations

import ssl
from typing import Final

import trio

from .errors import CannotConnect

# X509_V_ERR_… of OpenSSL's x509_vfy.h, which the ssl module does not name.
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_OTHER_NAME: Final = (62, 64)  # host name, IP address


async def open_tls_stream(
    transport: trio.SocketStream, host: str, context: ssl.SSLContext
) -> trio.SSLStream[trio.SocketStream]:
    """Shake hands over a connected transport, which is closed when that fails.

    Raises:
        CannotConnect: no TLS on the other side, or a certificate that is not trusted.
    """
    # https_compatible: an end without close_notify is an end. Frames tell their own length and nothing is concluded from an
    # end but that the connection is lost, so one that an attacker makes up is worth no more to him than a cut cable.
    stream = trio.SSLStream(transport, context, server_hostname=host, https_compatible=True)
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(stream)
        raise CannotConnect(f"TLS with {host}: {why_broken(error)}") from error
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


def why_broken(error: BaseException) -> str:
    """Say for a person why a stream broke; Trio keeps the reason in the error's cause."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _certificate(cause)
    if isinstance(cause, ssl.SSLError):
        return _tls(cause)
    return str(error) or (str(cause) if cause else "") or type(error).__name__


def _certificate(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _OTHER_NAME:
        return f"the certificate is for another name: {error.verify_message}"
    if error.verify_code == _EXPIRED:
        return "the server's certificate has expired"
    if error.verify_code == _NOT_YET_VALID:
        return "the server's certificate is not valid yet; is this machine's clock right?"
    return (
        f"the server's certificate is not trusted ({error.verify_message}); if its authority is your own, give open_client "
        'ssl_context=ssl.create_default_context(cafile="authority.pem")'
    )


def _tls(error: ssl.SSLError) -> str:
    reason = error.reason or ""
    if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER_FAILURE" in reason or "HTTP_REQUEST" in reason:
        return "there is no TLS on this port; without it the address begins with tcp:// or ws://"
    if "CERTIFICATE_REQUIRED" in reason:
        return "the server wants a client certificate: load one into the ssl_context with load_cert_chain()"
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return f"the server does not take this client certificate ({reason.lower().replace('_', ' ')})"
    if isinstance(error, ssl.SSLEOFError):
        return "the server ended the connection instead of shaking hands"
    return reason.lower().replace("_", " ") or str(error)
