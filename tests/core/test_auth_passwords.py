"""Password rules and argon2id in worker threads."""

from __future__ import annotations

import threading
import unicodedata

import argon2
import pytest
import trio
import trio.testing

from imserver.auth import passwords
from imserver.auth.common_passwords import COMMON_PASSWORDS
from imserver.auth.passwords import (
    MAX_PASSWORD_BYTES,
    PasswordHasher,
    check_new_password,
    hash_password,
    verify_password,
)
from imserver.errors import InternalError, InvalidBody, Unavailable

CHINESE = (
    "床前明月光疑是地上霜举头望明月低头思故乡春眠不觉晓处处闻啼鸟夜来"
    "风雨声花落知多少白日依山尽黄河入海流欲穷千里目更上一层楼红豆生南"
)


@pytest.mark.parametrize(
    "password",
    [
        "kühler M",
        "ordinary-enough",
        CHINESE,
        "x" * 1023 + "y",
        "密码锁密码锁",
        "space  inside  is  kept",
        "nul\0inside it",
    ],
)
def test_good_passwords_are_taken(password: str) -> None:
    """Long ones, Chinese ones and any character are fine."""
    check_new_password(password, user_id="alice")


def test_chinese_pass_phrase_has_64_characters() -> None:
    """The sample above is what ASVS 6.2.9 asks for."""
    assert len(CHINESE) == 64


@pytest.mark.parametrize(
    "password",
    [
        "",
        "short77",
        "密码",
        "y" + "x" * MAX_PASSWORD_BYTES,
        "汉" * 342,  # 1,026 bytes
        "password",
        "PassWord",
        "12345678",
        "qwertyuiop",
        "aaaaaaaaaaaa",
        "Alice.Liddell",
    ],
)
def test_bad_passwords_are_refused(password: str) -> None:
    """Too short, too long, common, a single character, the user id; the message does not repeat the password."""
    with pytest.raises(InvalidBody) as caught:
        check_new_password(password, user_id="alice.liddell", field="new_password")
    assert caught.value.field == "new_password"
    if password not in ("", "password"):
        assert password not in caught.value.message


def test_the_list_of_common_passwords_is_what_the_rule_needs() -> None:
    """3,000 entries (ASVS 6.2.4), all of them long enough to matter and folded."""
    assert len(COMMON_PASSWORDS) >= 3000
    assert all(len(word) >= 8 and word == word.casefold() for word in COMMON_PASSWORDS)


def test_parameters_are_owasps() -> None:
    """argon2id, 19 MiB, two passes, one lane; a fresh salt each time."""
    first, second = hash_password("ordinary-enough"), hash_password("ordinary-enough")
    assert first.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert first != second


def test_nothing_is_truncated() -> None:
    """Two passwords that differ in the last byte of 1,024 are two passwords."""
    stored = hash_password("x" * 1023 + "a")
    assert verify_password(stored, "x" * 1023 + "a").is_right
    assert not verify_password(stored, "x" * 1023 + "b").is_right


def test_two_spellings_of_one_character_are_one_password() -> None:
    """A keyboard that composes and one that does not type the same password."""
    stored = hash_password(unicodedata.normalize("NFC", "crème brûlée"))
    assert verify_password(stored, unicodedata.normalize("NFD", "crème brûlée")).is_right


def test_old_parameters_want_a_rehash() -> None:
    """A hash with less memory is right, but to be renewed; a present one is not."""
    old = argon2.PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash("ordinary-enough")
    assert verify_password(old, "ordinary-enough") == passwords.Verdict(is_right=True, needs_rehash=True)
    assert verify_password(hash_password("ordinary-enough"), "ordinary-enough").needs_rehash is False


def test_a_damaged_hash_is_an_error_of_ours() -> None:
    """What is no hash is neither right nor wrong."""
    with pytest.raises(InternalError):
        verify_password("ordinary-enough", "ordinary-enough")


async def test_an_unknown_user_costs_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """No stored hash and an overlong password run argon2 once each, like a wrong one, and in another thread."""
    runs: list[tuple[str, bool]] = []

    def counted(stored: str, password: str) -> passwords.Verdict:
        runs.append((stored.rpartition("$")[0].rpartition("$")[0], threading.current_thread() is threading.main_thread()))
        return verify_password(stored, password)

    hasher = PasswordHasher()
    stored = await hasher.hash("ordinary-enough")
    monkeypatch.setattr(passwords, "verify_password", counted)
    assert not (await hasher.verify(None, "anything at all")).is_right
    assert not (await hasher.verify(stored, "x" * 2000)).is_right
    assert not (await hasher.verify(stored, "ordinary-enougj")).is_right
    assert (await hasher.verify(stored, "ordinary-enough")).is_right
    assert runs == [("$argon2id$v=19$m=19456,t=2,p=1", False)] * 4


async def test_nobody_has_the_dummys_password() -> None:
    """The empty password, with which the dummy is compared, is wrong too."""
    assert not (await PasswordHasher().verify(None, "")).is_right


async def test_only_so_many_run_and_wait_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many run as there are CPUs, a bounded number waits, the next is told to come back."""
    release, full = threading.Event(), threading.Event()
    running = 0
    most = 0
    lock = threading.Lock()

    def slow(stored: str, password: str) -> passwords.Verdict:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == passwords._cpus:
                full.set()
        release.wait(30)
        with lock:
            running -= 1
        return passwords.Verdict(is_right=False)

    monkeypatch.setattr(passwords, "verify_password", slow)
    hasher = PasswordHasher(max_waiting=2)
    async with trio.open_nursery() as nursery:
        for _ in range(passwords._cpus + 2):
            nursery.start_soon(hasher.verify, None, "anything")
        await trio.testing.wait_all_tasks_blocked()
        assert await trio.to_thread.run_sync(full.wait, 30)
        with pytest.raises(Unavailable) as caught:
            await hasher.verify(None, "anything")
        assert caught.value.retry_after_ms
        release.set()
    assert most == passwords._cpus


def test_each_run_loop_has_its_own_limiter() -> None:
    """Shards are threads with a trio.run each; one hasher serves them all."""
    hasher = PasswordHasher()
    stored = hash_password("ordinary-enough")
    right: list[bool] = []

    async def main() -> None:
        right.append((await hasher.verify(stored, "ordinary-enough")).is_right)

    threads = [threading.Thread(target=trio.run, args=(main,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True, True]
