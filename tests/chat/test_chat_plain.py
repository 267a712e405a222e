"""`imserver chat` with pipes against a real server: what scripts, and people without a full screen, have."""

import json
import stat
import subprocess

import pytest
from terminal import PASSWORD, Piped, command, environment


@pytest.fixture
def page(server):
    """The address that is given to the chat."""
    return f"http://{server.ready['http'][0]}"


@pytest.fixture
def piped(tmp_path, page):
    """Starts chats with pipes: `piped("anna", …)`; each has a home of its own."""
    made = []

    def start(user, *words, **more):
        made.append(Piped(tmp_path / user, page, "--user", user, *words, **more))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_two_users_chat_edit_recall_react_and_reply(piped):
    """What one types the other gets; a change comes as the message once more; a reply names what it answers."""
    anna = piped("pl-anna", "--register", "--commands", "--follow")
    anna.type("/list")
    anna.wait("no conversation yet", where="err")
    ben = piped("pl-ben", "--register", "--commands", "--follow", "--to", "pl-anna")
    ben.type("helo")
    anna.wait(r"^\d{4}-\d\d-\d\d \d\d:\d\d #1 pl-ben: helo$")
    ben.type("/edit hello")
    anna.wait(r"#1 \(edited\) pl-ben: hello$")
    anna.type("/to pl-ben")
    ben.wait(r"pl-anna has read up to #1", where="err")
    anna.type("/react 👍")
    ben.wait(r"#1 \[👍 1\] pl-ben: hello$")
    anna.type("/react 👍")
    anna.type("/reply #1 hello yourself")
    ben.wait(r"#2 \(to #1\) pl-anna: hello yourself$")
    anna.type("/recall")
    ben.wait(r"#2 \(recalled\) .*\(recalled\)$")
    anna.type("/edit too late")
    anna.wait("there is no message of yours here", where="err")
    ben.type("//slash")
    anna.wait("#3 pl-ben: /slash$")
    anna.type("/search slash")
    anna.wait("pl-ben #3, pl-ben: /slash", where="err")


def test_a_group_from_its_beginning_to_leaving(piped):
    """/group, /add, /members, a message to all, /leave; who is removed is told so."""
    ben = piped("gr-ben", "--register", "--commands", "--follow")
    cleo = piped("gr-cleo", "--register", "--commands", "--follow")
    for one in (ben, cleo):
        one.type("/list")
        one.wait("no conversation yet", where="err")
    anna = piped("gr-anna", "--register", "--commands", "--follow")
    anna.type('/group "The team" gr-ben gr-nobody')
    anna.wait("gr-nobody is not added: not found", where="err")
    ben.wait("The team #1 .*gr-anna began the group with gr-ben$")
    anna.type("/add gr-cleo")
    cleo.wait("gr-anna added gr-cleo$")
    anna.type("hello all")
    for one in (ben, cleo):
        one.wait("The team #3 gr-anna: hello all$")
    ben.type("/to #The team")
    ben.type("/members")
    ben.wait("^ *gr-anna \\(owner\\)$", where="err")
    ben.type("/leave")
    anna.wait("gr-ben left$")
    anna.type("/remove gr-cleo")
    cleo.wait("gr-anna has removed you from #The team", where="err")


def test_friends_are_asked_and_accepted(piped):
    """/friend on one side is told on the other; /accept makes it a friendship, which both see in /friends."""
    anna = piped("fr-anna", "--register", "--commands", "--follow")
    anna.type("/friends")
    anna.wait("no friends yet", where="err")
    ben = piped("fr-ben", "--register", "--commands", "--follow")
    ben.type("/friend fr-anna it is Ben")
    anna.wait(r"fr-ben asks for your friendship \(it is Ben\): /accept fr-ben", where="err")
    anna.type("/accept fr-ben")
    ben.wait("you and fr-anna are friends now", where="err")
    ben.type("/friends")
    ben.wait("^fr-anna, on line$", where="err")


def test_a_script_sends_its_lines_and_ends_with_their_fate(piped, tmp_path):
    """Without commands each line is a message as it stands; the exit status tells whether all were sent."""
    anna = piped("sc-anna", "--register", "--json", "--follow")
    ben = piped("sc-ben", "--register", "--commands")
    ben.type("/to sc-anna")
    ben.type("/quit")
    assert ben.end() == 0
    script = piped("sc-ben", "--to", "sc-anna")
    script.type("/this is no command")
    script.type("two")
    assert script.end() == 0
    shown = [json.loads(anna.wait(f".*{text}.*")[0]) for text in ("no command", "two")]
    assert [(one["from"], one["body"], one["seq"]) for one in shown] == [
        ("sc-ben", "/this is no command", 1),
        ("sc-ben", "two", 2),
    ]
    lost = piped("sc-ben")
    lost.type("to whom?")
    assert lost.end() == 1
    assert "nobody to send it to" in "\n".join(lost.lines["err"])


def test_escape_sequences_of_others_never_reach_the_terminal(piped):
    """A title change, a clipboard write and a faked line are shown as text."""
    anna = piped("es-anna", "--register", "--commands", "--follow")
    anna.type("/list")
    anna.wait("no conversation yet", where="err")
    ben = piped("es-ben", "--register", "--to", "es-anna")
    ben.type("\x1b]0;owned\x07\x1b]52;c;ZXZpbA==\x07 done\u202e")
    anna.wait("#1 es-ben: .*done")
    ben.type("end")
    anna.wait("end$")
    text = "\n".join(anna.lines["out"])
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert "␛]0;owned␇" in text


def test_a_remembered_session_is_kept_0600_and_used(piped, page, tmp_path):
    """--remember keeps tokens, no password, in a file of one's own; the next run asks nothing; /logout removes it."""
    first = piped("re-anna", "--register", "--remember", "--commands")
    first.type("/quit")
    assert first.end() == 0
    [file] = (tmp_path / "re-anna").rglob("re-anna@*.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    kept = file.read_text()
    assert PASSWORD not in kept
    assert json.loads(kept)["refresh_token"]
    words = command(page, "--user", "re-anna", "--commands")
    home = tmp_path / "re-anna"
    again = subprocess.run(
        words, input=b"/list\n/logout\n", capture_output=True, env=environment(home), cwd=home, timeout=60, check=False
    )
    assert again.returncode == 0, again.stderr
    assert b"no conversation yet" in again.stderr
    assert not file.exists()


def test_loss_and_return_of_the_connection_are_told(make_server, tmp_path):
    """The server dies and comes back on the same port: the chat says both, and the message written in between arrives."""
    server = make_server()
    place = server.ready["http"][0]
    page = f"http://{place}"
    anna = Piped(tmp_path / "anna", page, "--user", "anna", "--register", "--commands", "--follow")
    ben = Piped(tmp_path / "ben", page, "--user", "ben", "--register", "--commands", "--follow")
    try:
        for one in (anna, ben):
            one.type("/list")
            one.wait("no conversation yet", where="err")
        server.kill()
        for one in (anna, ben):
            one.wait("the connection is lost", where="err")
        ben.type("/to anna")
        ben.type("while away")
        server.settings["http.listen"] = place
        server.start()
        for one in (anna, ben):
            one.wait("connected again", where="err")
        anna.wait("ben: while away$")
    finally:
        anna.close()
        ben.close()


def test_wrong_password_and_missing_user_say_what_to_do(piped):
    """The exit status is 1, and the text is one line for a person."""
    wrong = piped("wr-nobody", password="wrong horse 7 battery")
    assert wrong.end() == 1
    assert "Traceback" not in "\n".join(wrong.lines["err"])
    assert any("wrong" in line for line in wrong.lines["err"])
    new = piped("wr-anna", "--register", "--to", "wr-nobody-at-all")
    assert new.end() == 1
    assert any("there is no user wr-nobody-at-all" in line for line in new.lines["err"])


def test_a_file_is_sent_and_saved_under_a_name_of_its_own(piped, tmp_path):
    """/file and /save: the same bytes, in the folder of who saves; a second time the name gets a number."""
    anna = piped("fi-anna", "--register", "--commands", "--follow")
    anna.type("/list")
    anna.wait("no conversation yet", where="err")
    (tmp_path / "cat.txt").write_bytes(b"meow" * 1000)
    ben = piped("fi-ben", "--register", "--commands", "--follow", "--to", "fi-anna")
    ben.type(f"/file {tmp_path / 'cat.txt'}")
    anna.wait(r"#1 fi-ben: \[file\] cat\.txt \(3\.9 KiB\), /save 1$")
    anna.type("/to fi-ben")
    anna.type("/save 1")
    anna.wait(r"saved as .*cat\.txt", where="err")
    anna.type("/save")
    anna.wait(r"saved as .*cat \(2\)\.txt", where="err")
    for name in ("cat.txt", "cat (2).txt"):
        assert (tmp_path / "fi-anna" / name).read_bytes() == b"meow" * 1000
    ben.type("/file nothing-here.txt")
    ben.wait("/file: nothing-here.txt is no file", where="err")
