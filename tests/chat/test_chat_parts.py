"""The parts of the chat that need no server: texts made harmless, names of files, tokens, rows, the model."""

import os
import stat

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.utils import get_cwidth

from imserver.chat import rows
from imserver.chat.model import MAX_LOADED, Chats, Line, direct_id, text_of
from imserver.chat.sanitize import MAX_MARKS, clean_line, clean_text
from imserver.chat.saving import free_path, safe_name
from imserver.chat.tokens import TokenFile, TokenFileError
from imserver.client import Conversation, Credentials, Message, MessageChanged


def message(seq, body="hello", from_="ben", **more):
    """A message to Anna."""
    return Message("d:anna:ben", seq, seq, f"{seq:016x}", f"c{seq}", from_, 1_750_000_000_000 + seq, "text", body, **more)


# ------------------------------------------------------------------ sanitize


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]52;c;ZXZpbA==\x07", "␛]52;c;ZXZpbA==␇"),
        ("\x9b31mred", "\ufffd31mred"),
        ("a\rb", "a␍b"),
        ("one\r\ntwo", "one\ntwo"),
        ("\u202etxt.exe", "\ufffdtxt.exe"),
        ("in\u200bvis\u2060ible", "invisible"),
        ("tab\there", "tab    here"),
        ("\ud800", "\ufffd"),
    ],
)
def test_what_a_terminal_would_obey_is_shown(text, shown):
    """Control characters of both ranges, overrides of direction, and what is not seen."""
    assert clean_text(text) == shown


@given(st.text(alphabet=st.characters(), max_size=200))
def test_no_text_brings_a_control_character_to_the_terminal(text):
    """Whatever comes: of control characters only line ends are left, in a line none at all."""
    assert not [char for char in clean_text(text) if char != "\n" and (ord(char) < 32 or 0x7F <= ord(char) < 0xA0)]
    assert not [char for char in clean_line(text) if ord(char) < 32 or 0x7F <= ord(char) < 0xA0]


def test_piles_of_marks_and_long_texts_are_cut():
    """A character carries a few marks; a text over the bound says by how much it was cut."""
    assert clean_line("e" + "\u0301" * 50) == "e" + "\u0301" * MAX_MARKS
    assert clean_text("x" * 30, max_chars=10) == "x" * 10 + " … (20 more characters)"
    assert clean_line("x" * 30, max_chars=10) == "x" * 9 + "…"


# ------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("cat.png", "cat.png"),
        ("../../.ssh/authorized_keys", "authorized_keys"),
        ("..\\..\\evil.bat", "evil.bat"),
        (".bashrc", "bashrc"),
        ("-rf", "rf"),
        ("", "file"),
        ("a\x1b[2Jb.txt", "a_[2Jb.txt"),
    ],
)
def test_a_received_name_is_no_path(name, safe):
    """No folder, no hidden file, no option, no control character."""
    assert safe_name(name) == safe


def test_a_file_never_takes_the_place_of_another(tmp_path):
    """The second one of a name gets a number."""
    (tmp_path / "cat.png").write_bytes(b"first")
    assert free_path(tmp_path, "cat.png") == tmp_path / "cat (2).png"


# ------------------------------------------------------------------ tokens


def test_the_token_file_is_ours_alone(tmp_path):
    """Made 0600 and locked; one that others can read, or a link, is refused; what was kept is there again."""
    folder = tmp_path / "chat"
    file = TokenFile.open(folder, "http://x", "anna")
    assert file is not None
    file.save(Credentials("anna", "t" * 300, "r1", 5), "chat-1")
    file.save(Credentials("anna", "t2", "r2", 5), "chat-1")
    [path] = folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert TokenFile.open(folder, "http://x", "anna") is None, "another client has it"
    kept = file.load()
    assert (kept.token, kept.refresh_token, kept.device_id) == ("t2", "r2", "chat-1")
    assert "r2" not in repr(kept)
    assert TokenFile.users(folder, "http://x") == ["anna"]
    file.close()
    path.chmod(0o644)
    with pytest.raises(TokenFileError, match="read by others"):
        TokenFile.open(folder, "http://x", "anna")
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TokenFileError):
        TokenFile.open(folder, "http://x", "anna")
    assert not os.path.lexists(tmp_path / "elsewhere")


# ------------------------------------------------------------------ rows


@given(st.text(alphabet="ab 漢👍\n", max_size=80), st.integers(2, 12))
def test_rows_are_never_wider_than_the_screen_and_lose_nothing(text, columns):
    """Wide characters count twice; only the spaces at which a row was broken are gone."""
    found = list(rows.wrapped(text, columns, get_cwidth))
    assert all(sum(map(get_cwidth, row)) <= columns for row in found)
    assert "".join(found).replace(" ", "") == text.replace("\n", "").replace(" ", "")
    assert all(sum(map(get_cwidth, rows.fit(row, columns, get_cwidth))) == columns for row in found)


def test_only_the_rows_that_are_wanted_are_made():
    """The last rows of a conversation, own messages with their ticks."""
    chats = Chats("anna")
    chat = chats.get("d:anna:ben")
    for seq in range(1, 100):
        chat.put(message(seq, from_="anna"))
    chat.peer_read_seq = 98
    found = rows.chat_rows(chat, "anna", 60, 4, get_cwidth)
    heads = ["".join(text for _, text in row).rstrip() for row in found[::2]]
    assert [head.split("#")[1] for head in heads] == ["98 ✓✓", "99 ✓"]


# ------------------------------------------------------------------ model


def test_unread_counts_and_changes_follow_the_server():
    """SYNC's number, one more for each new message of others, none for system messages, repeats and one's own."""
    chats = Chats("anna")
    chats.synced(Conversation("d:anna:ben", 5, 5, 3, 5, 2, None, pinned=True))
    chat = chats.arrived(message(6))
    assert (chat.unread, chat.is_pinned) == (3, True)
    chats.arrived(message(6))
    chats.arrived(evolve(message(7), type="system", body={}))
    assert chat.unread == 3
    changed = MessageChanged("d:anna:ben", 6, 9, "edited", {"body": "better", "edited_at": 7})
    assert chats.changed(changed)[1].body == "better"
    assert chats.changed(evolve(changed, rev=8, state={"body": "stale"})) == (chat, None)
    assert chats.changed(evolve(changed, rev=10)) == (chat, None), "it is so already"
    assert chats.changed(evolve(changed, seq=2)) == (chat, None)
    assert chat.line(6).message.body == "better"
    chats.read("d:anna:ben", "ben", 4)
    assert chat.peer_read_seq == 4
    chats.arrived(message(8, from_="anna"))
    assert chat.unread == 0


def test_a_conversation_in_memory_is_bounded():
    """The oldest lines go, and are loaded again when they are scrolled to."""
    chat = Chats("anna").get(direct_id("ben", "anna"))
    chat.is_complete = True
    for seq in range(1, MAX_LOADED + 11):
        chat.put(message(seq))
    assert (len(chat.lines), chat.first_seq, chat.is_complete) == (MAX_LOADED, 11, False)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"event": "created", "by": "ben", "user_ids": ["anna", "cleo"]}, "ben began the group with anna, cleo"),
        ({"event": "joined", "by": "ben", "user_ids": ["ben"]}, "ben joined"),
        ({"event": "role", "by": "ben", "user_ids": ["anna"], "role": "admin"}, "ben made anna admin"),
        ({"event": "muted", "by": "ben", "user_ids": ["anna"], "muted_until": 0}, "ben lifted the mute of anna"),
        ({"event": "updated", "by": "ben", "name": "x"}, "ben changed name"),
        ({"event": "later", "by": "ben"}, "ben later"),
    ],
)
def test_what_happens_to_a_group_is_told_in_words(body, text):
    """Each event of a group; one that this version does not know is told by its name."""
    assert text_of(evolve(message(1), type="system", from_="", body=body)) == text


@pytest.mark.parametrize("body", [{"event": "removed", "by": "ben", "user_ids": ["anna"]}, "Your account is suspended"])
def test_line_of_the_server_is_the_servers_alone(body):
    """A user may send the type `system`, too: it is shown as a message of theirs."""
    chat = Chats("anna").get("d:anna:ben")

    def shown(from_):
        found = rows.line_rows(chat, Line(evolve(message(1), type="system", from_=from_, body=body)), "anna", 80, get_cwidth)
        return ["".join(text for _, text in row) for row in found]

    assert len(shown("")) == 1
    assert shown("")[0].startswith("— ")
    head, *texts = shown("ben")
    assert head.startswith("ben ")
    assert not any("removed anna" in text or text.startswith("—") for text in texts)
