"""The server's secret: the file with the key that signs and verifies tokens."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from imserver.errors import ConfigError, StartError

MIN_SECRET_CHARS = 32  # RFC 7518, section 3.2: a key of HS256 has at least the 256 bits of the hash
MAX_SECRET_BYTES = 4096  # a file that is longer is something else

# What samples, tutorials and other servers' default configurations have; a secret that contains one is no secret.
_SAMPLES = (
    "your-secret", "your_secret", "yoursecret", "your-256-bit-secret", "a-string-secret-at-least-256-bits-long",
    "my-secret", "my_secret", "mysecret", "super-secret", "supersecret", "secret-key", "secret_key", "secretkey",
    "jwt-secret", "jwt_secret", "change-me", "change_me", "changeme", "changeit", "replace-me", "replace_me",
    "django-insecure", "example", "insecure", "placeholder", "0123456789abcdef0123456789abcdef",
)  # fmt: skip


def load_secret(path: Path) -> bytes:
    """Read the secret, and make it first if there is none.

    Args:
        path: of the secret file; its folder is made (mode 700) if it is missing.

    Returns:
        The file's text without surrounding white space, as bytes: the HMAC key of HS256. Never log it.

    Raises:
        ConfigError: the secret is too short, a known sample, or readable by others; the message says what to do.
        StartError: the file can neither be read nor made.
    """
    try:
        return read_secret(path)
    except FileNotFoundError:
        pass
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create(path)
        return read_secret(path)
    except OSError as exc:
        raise StartError(f"cannot make the secret file {path}: {exc.strerror}") from exc


def read_secret(path: Path) -> bytes:
    """Read and judge the secret of an existing file; see `load_secret`.

    Raises:
        FileNotFoundError: there is none yet.
        ConfigError, StartError: as `load_secret`.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_SECRET_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise StartError(f"cannot read the secret file {path}: {exc.strerror}") from exc
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(
            f"auth.secret_file: {path} has mode {stat.S_IMODE(mode):03o}, so others can read or change it: "
            f"chmod 600 {path} (and, if others may have read it, delete it: a new one is made at the next start)"
        )
    check_secret(content, where=f"auth.secret_file: {path}")
    return content.strip()


def check_secret(content: bytes, *, where: str) -> None:
    """Refuse a secret that somebody could know or guess.

    Raises:
        ConfigError: begins with `where` and says what to do; never repeats the secret.
    """
    advice = "delete the file, and a good one is made at the next start; or write 64 random hexadecimal digits into it"
    secret = content.strip()
    if len(secret) < MIN_SECRET_CHARS:
        raise ConfigError(f"{where} has {len(secret)} characters, but needs {MIN_SECRET_CHARS} at least; {advice}")
    if len(content) > MAX_SECRET_BYTES:
        raise ConfigError(f"{where} has more than {MAX_SECRET_BYTES} bytes: it is no secret of imserver; {advice}")
    folded = secret.lower()
    if any(sample.encode() in folded for sample in _SAMPLES) or len(set(secret)) < 8:
        raise ConfigError(f"{where} is a known sample or too simple; {advice}")
    if b"-----BEGIN" in secret or folded.startswith((b"ssh-", b"ecdsa-")):
        raise ConfigError(f"{where} is half of a key pair, but tokens are signed by a shared secret (HS256); {advice}")


def _create(path: Path) -> None:
    # Written aside and linked, so that a crash leaves no empty secret and a second process that starts at the same
    # moment neither overwrites this one nor reads half of it.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return  # the other process was first: its secret is everybody's
    finally:
        os.unlink(draft)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
