"""The file with the server's secret."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from imserver.auth.secret import check_secret, load_secret, read_secret
from imserver.errors import ConfigError, StartError


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    """A secret file as somebody left it."""
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_first_start_makes_a_secret(tmp_path: Path) -> None:
    """256 random bits as hexadecimal text, mode 600, nothing left behind beside it; the next start finds the same."""
    path = tmp_path / "data" / "secret"
    secret = load_secret(path)
    assert len(bytes.fromhex(secret.decode())) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert load_secret(path) == secret
    assert load_secret(tmp_path / "other") != secret


def test_white_space_around_it_plays_no_part(tmp_path: Path) -> None:
    """An editor's line feed at the end is not part of the key."""
    path = write(tmp_path / "secret", b"  fRzK2bX9wQ7LmT4vJ8sD1gH6pN3cY5aE \r\n")
    assert load_secret(path) == b"fRzK2bX9wQ7LmT4vJ8sD1gH6pN3cY5aE"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "0 characters"),
        (b" \n", "0 characters"),
        (b"fRzK2bX9wQ7LmT4vJ8sD1gH6pN3cY5a", "31 characters"),
        (b"a" * 64, "too simple"),
        (b"your-256-bit-secret-your-256-bit-secret", "known sample"),
        (b"a-string-secret-at-least-256-bits-long", "known sample"),
        (b"YOUR_SECRET_KEY_PLEASE_REPLACE_ME_NOW", "known sample"),
        (b"-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A\n", "key pair"),
        (b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKx7 somebody@host", "key pair"),
        (os.urandom(5000), "more than 4096 bytes"),
    ],
)
def test_bad_secrets_are_refused(tmp_path: Path, content: bytes, says: str) -> None:
    """Empty, short, known and foreign ones stop the start with a message that names the file, but not the secret."""
    path = write(tmp_path / "secret", content)
    with pytest.raises(ConfigError) as caught:
        load_secret(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert not content.strip() or content.decode("latin-1").strip() not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """The message says what to do: chmod."""
    path = write(tmp_path / "secret", b"fRzK2bX9wQ7LmT4vJ8sD1gH6pN3cY5aE", mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_secret(path)


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    """What can be neither read nor made stops the start."""
    with pytest.raises(StartError):
        load_secret(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StartError):
        load_secret(tmp_path / "file" / "secret")


def test_reading_makes_none(tmp_path: Path) -> None:
    """`imserver check` looks without making one."""
    with pytest.raises(FileNotFoundError):
        read_secret(tmp_path / "secret")
    assert list(tmp_path.iterdir()) == []


def test_two_that_start_at_once_agree(tmp_path: Path) -> None:
    """Whoever is first makes the secret of both."""
    secrets: list[bytes] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        secrets.append(load_secret(tmp_path / "secret"))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(secrets) == 8
    assert len(set(secrets)) == 1


def test_what_is_made_passes_its_own_rules() -> None:
    """No random secret is ever taken for a sample."""
    for _ in range(200):
        check_secret(os.urandom(32).hex().encode(), where="here")
