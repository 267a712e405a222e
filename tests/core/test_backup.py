"""Backups in folders: what is in them, what is never overwritten, and what a restore does at each of its faults."""

import errno
import hashlib
import os
import shutil
import stat
import subprocess
import sys
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import apsw
import msgspec
import pytest

from imserver.backup import create, parts, places, rotation
from imserver.backup.check import verify
from imserver.backup.create import make_backup
from imserver.backup.manifest import read_manifest
from imserver.backup.restore import restore
from imserver.errors import StartError
from imserver.storage.backup import BackupError, Snapshot
from imserver.storage.database import Database, offline
from imserver.storage.restored import MIN_GAP

FILES = """
CREATE TABLE files (
    file_id TEXT NOT NULL PRIMARY KEY, state INTEGER NOT NULL, size INTEGER NOT NULL, sha256 BLOB
) STRICT, WITHOUT ROWID;
"""
SCRIPTS = {"file": (FILES,)}
ID = "{:032x}".format


def quiet(*_):
    """Tells nobody how far it is."""


class Data:
    """A data folder of a server that is not running, with files."""

    def __init__(self, folder):
        self.folder = folder
        Database(folder, SCRIPTS).close()
        self.secret = folder / "secret"
        self.secret.write_text("0123456789abcdef" * 4)
        self.secret.chmod(0o600)

    def add(self, number, data=b"some bytes", state=1):
        """A file: its row, and its bytes."""
        path = self.path(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        with offline(self.folder, SCRIPTS) as connection, connection:
            row = (ID(number), state, len(data), hashlib.sha256(data).digest())
            connection.execute("INSERT INTO files VALUES (?, ?, ?, ?)", row)

    def delete(self, number):
        """As the server does: the row first, then the bytes."""
        with offline(self.folder, SCRIPTS) as connection, connection:
            connection.execute("DELETE FROM files WHERE file_id = ?", (ID(number),))
        self.path(number).unlink()

    def path(self, number):
        return self.folder / "files" / ID(number)[:2] / ID(number)

    def say(self, conversation, seq, body=b"\xa2hi"):
        """A message, and its conversation with two members."""
        with offline(self.folder, SCRIPTS) as connection, connection:
            connection.execute(
                "INSERT OR IGNORE INTO conversations VALUES (?, ?, 'direct', 1)", (conversation, f"d:{conversation}")
            )
            connection.execute(
                "INSERT INTO messages (id, conversation, seq, rev, sender, client_id, type, body) "
                "VALUES (?,?,?,?,'a',?,'text',?)",
                (conversation * 1000 + seq, conversation, seq, seq, str(seq), body),
            )

    def query(self, sql):
        with offline(self.folder, SCRIPTS) as connection:
            return connection.execute(sql).fetchall()

    def backup(self, target, **options):
        return make_backup(self.folder, self.secret, target, quiet, **options)


@pytest.fixture
def data(tmp_path):
    return Data(tmp_path / "data")


@pytest.fixture
def given(monkeypatch):
    """As if root ran this: what was given to whom, by inode."""
    owners = {}

    def chown(path, user, group, **_):
        owners[os.lstat(path).st_ino] = user

    def fchown(descriptor, user, group):
        owners[os.fstat(descriptor).st_ino] = user

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", chown)
    monkeypatch.setattr(os, "fchown", fchown)
    return owners


def put_back(backup, folder, *, scripts=SCRIPTS, secret=None, replaces=False, **options):
    return restore(backup, folder, secret or folder / "secret", scripts, quiet, replaces=replaces, **options)


def names(folder):
    """All files below, as a set of relative names."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- making one


def test_a_backup_has_what_lasts_and_nobody_else_can_read_it(data, tmp_path):
    """Database, secret, finished files, sums that `sha256sum` takes, a manifest; nothing that is not finished."""
    data.add(1)
    data.add(2, b"half of it", state=0)
    data.say(1, 1)
    made = data.backup(tmp_path / "made")
    file = f"files/{ID(1)[:2]}/{ID(1)}"
    assert names(made.path) == {"manifest.json", "SHA256SUMS", "imserver.db", "secret", file}
    assert (made.manifest.files, made.manifest.counts["messages"], made.manifest.has_secret) == (1, 1, True)
    assert (made.path / file).read_bytes() == b"some bytes"
    modes = {stat.S_IMODE(path.stat().st_mode) for path in [made.path, *made.path.rglob("*")]}
    assert modes == {0o700, 0o600}
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=made.path, check=True)
    assert verify(made.path, quiet).manifest == made.manifest


def test_nothing_is_overwritten_or_put_where_it_is_of_no_use(data, tmp_path):
    """Something of that name, a folder that is missing, a place inside of the data folder."""
    (tmp_path / "there").mkdir()
    for target, words in (
        (tmp_path / "there", "never overwritten"),
        (tmp_path / "not mounted" / "b", "mounted"),
        (data.folder / "b", "inside of server.data_dir"),
    ):
        with pytest.raises(BackupError, match=words):
            data.backup(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "there"]


def test_no_room_is_said_before_anything_is_written(data, tmp_path, monkeypatch):
    """How much is free, and how much is needed."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(BackupError, match=r"has 5 bytes free, and 1\d\.\d MB are needed"):
        data.backup(tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()], ids=["full", "interrupted"])
def test_what_is_broken_off_leaves_nothing(data, tmp_path, monkeypatch, fault):
    """A disk that fills up in the middle, a signal."""

    def fail(*_):
        raise fault

    monkeypatch.setattr(create, "write_manifest", fail)
    with pytest.raises((BackupError, KeyboardInterrupt)):
        data.backup(tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_files_that_come_and_go_meanwhile(data, tmp_path, monkeypatch):
    """One is deleted after it was copied, one just before its turn, one comes late: the backup is of one instant."""
    for number in (1, 2, 4):
        data.add(number)
    take = Snapshot.files
    events = [lambda: data.delete(1), lambda: (data.add(3), data.delete(4)), lambda: data.path(3).rename(tmp_path / "3")]

    def files(snapshot):
        found = take(snapshot)
        if events:
            events.pop(0)()
            if not events:  # the third state names a file whose bytes are gone: its row goes now, and the fourth has neither
                with offline(data.folder, SCRIPTS) as connection, connection:
                    connection.execute("DELETE FROM files WHERE file_id = ?", (ID(3),))
        return found

    monkeypatch.setattr(Snapshot, "files", files)
    monkeypatch.setattr(create, "_LITTLE_BYTES", 0)
    monkeypatch.setattr(create, "_ROUNDS", 2)
    made = data.backup(tmp_path / "made")
    assert events == []
    assert [name for name in names(made.path) if name.startswith("files/")] == [f"files/{ID(2)[:2]}/{ID(2)}"]
    assert made.manifest.lost_files == []
    verify(made.path, quiet)


def test_files_that_the_server_has_lost_do_not_stop_the_backup(data, tmp_path):
    """They are told of: the backup is as good as what there is."""
    for number in (1, 2):
        data.add(number)
    data.path(1).unlink()
    data.path(2).write_bytes(b"other bytes")
    made = data.backup(tmp_path / "made")
    assert (made.manifest.lost_files, made.manifest.damaged_files) == ([ID(1)], [ID(2)])
    verify(made.path, quiet)


def test_a_writer_is_not_stopped_and_not_followed(data, tmp_path):
    """While the pages are copied somebody commits: it is not in the copy, and the copying does not begin again."""
    for seq in range(1, 400):
        data.say(1, seq, b"\xc5\x40\x00" + b"x" * 0x4000)
    seen = []

    def commit(stage, done, total):
        if stage == "database":
            seen.append(done)
            data.say(1, 1000 + len(seen))

    made = make_backup(data.folder, None, tmp_path / "made", commit)
    assert len(seen) > 1
    assert seen == sorted(set(seen))
    assert made.manifest.counts["messages"] == 399
    assert data.query("SELECT count(*) FROM messages") == [(399 + len(seen),)]


# ---------------------------------------------------------------- cron


def test_the_newest_are_kept(data, tmp_path):
    """By name; a folder that is no backup is nobody's to remove."""
    made = []
    for day in (1, 2, 3):
        made.append(tmp_path / rotation.next_name(datetime(2026, 1, day, tzinfo=UTC)))
        data.backup(made[-1])
    other = tmp_path / "imserver-20250101T000000Z"
    other.mkdir()
    assert rotation.remove_old(tmp_path, 2, made[-1]) == [made[0]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", *sorted(path.name for path in [other, *made[1:]])]


def test_files_of_the_backup_before_are_linked(data, tmp_path):
    """They never change; what is damaged there is found when it is verified."""
    data.add(1)
    first = data.backup(tmp_path / "first").path
    data.add(2)
    second = data.backup(tmp_path / "second", earlier=first).path
    name = f"files/{ID(1)[:2]}/{ID(1)}"
    assert (first / name).samefile(second / name)
    assert verify(second, quiet).manifest.files == 2
    (first / name).write_bytes(b"other bytes")
    with pytest.raises(BackupError, match=r"is not what was backed up"):
        verify(second, quiet)


def test_what_is_spoiled_in_the_backup_before_is_copied_anew(data, tmp_path):
    """Of the same size, so only its bytes tell; and the sums are of bytes that were read. One bad sector stays in one."""
    data.add(1)
    first = data.backup(tmp_path / "first").path
    name = f"files/{ID(1)[:2]}/{ID(1)}"
    (first / name).write_bytes(b"some bytEs")
    second = data.backup(tmp_path / "second", earlier=first).path
    assert (second / name).read_bytes() == b"some bytes"
    verify(second, quiet)


def test_what_the_server_itself_had_otherwise_is_not_linked(data, tmp_path):
    """The backup before says so; this one is told of it, too, and has the good bytes once the server has them."""
    data.add(1)
    data.path(1).write_bytes(b"some bytEs")
    first = data.backup(tmp_path / "first").path
    second = data.backup(tmp_path / "second", earlier=first)
    assert second.manifest.damaged_files == [ID(1)]
    verify(second.path, quiet)
    data.path(1).write_bytes(b"some bytes")
    third = data.backup(tmp_path / "third", earlier=second.path)
    assert third.manifest.damaged_files == []
    verify(third.path, quiet)


def test_sums_of_the_backup_before_that_are_damaged_link_nothing(data, tmp_path):
    """They are no word to go by: then all is copied, and the new backup is whole."""
    data.add(1)
    first = data.backup(tmp_path / "first").path
    with (first / "SHA256SUMS").open("a") as sums:
        sums.write("\n")
    second = data.backup(tmp_path / "second", earlier=first).path
    name = f"files/{ID(1)[:2]}/{ID(1)}"
    assert not (first / name).samefile(second / name)
    verify(second, quiet)


def test_the_backup_just_made_is_never_removed(data, tmp_path):
    """A clock that was ahead has given another a later name: that one is told of."""
    ahead, made = (tmp_path / rotation.next_name(datetime(year, 1, 1, tzinfo=UTC)) for year in (2038, 2026))
    for target in (ahead, made):
        data.backup(target)
    assert rotation.in_the_future(tmp_path, made) == [ahead]
    assert rotation.remove_old(tmp_path, 2, made) == []
    assert rotation.remove_old(tmp_path, 1, made) == [ahead]
    assert made.exists()


def test_a_secret_that_is_a_link(data, tmp_path):
    """As with Kubernetes: the server follows it, so does a backup. A link in a backup is not followed."""
    real = tmp_path / "mounted"
    data.secret.rename(real)
    data.secret.symlink_to(real)
    backup = data.backup(tmp_path / "made").path
    assert not (backup / "secret").is_symlink()
    assert (backup / "secret").read_bytes() == real.read_bytes()
    without = make_backup(data.folder, None, tmp_path / "without", quiet).path
    put_back(without, data.folder, replaces=True)
    assert data.secret.read_bytes() == real.read_bytes()
    (backup / "secret").unlink()
    (backup / "secret").symlink_to(real)
    with pytest.raises(BackupError):
        put_back(backup, tmp_path / "other")


def test_what_a_killed_backup_left_is_removed(tmp_path):
    """But not what is being filled."""
    left, busy = (tmp_path / f".imserver-20260101T00000{number}Z.partial-0123abcd" for number in (1, 2))
    left.mkdir()
    with create._staging(tmp_path / "imserver-20260101T000003Z") as staging:
        rotation.remove_left_behind(tmp_path)
        assert not left.exists()
        assert staging.exists()
    busy.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == [busy.name]


# ---------------------------------------------------------------- checking one


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda b: (b / "secret").write_text("x"), "secret is not what was backed up"),
        (lambda b: (b / "secret").unlink(), "secret is missing"),
        (lambda b: next((b / "files").rglob("0*1")).unlink(), "is missing"),
        (lambda b: (b / "SHA256SUMS").write_text(""), "SHA256SUMS is damaged"),
        (lambda b: (b / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (lambda b: (b / "manifest.json").write_text('{"format": 2}'), "of format 2"),
        (lambda b: (b / "manifest.json").unlink(), "is no backup"),
    ],
)
def test_a_damaged_backup_is_told_and_touches_nothing(data, tmp_path, harm, words):
    """Neither by `verify` nor by a restore is it taken for a whole one."""
    data.add(1)
    backup = data.backup(tmp_path / "made").path
    harm(backup)
    with pytest.raises(BackupError, match=words):
        verify(backup, quiet)
    with pytest.raises(BackupError, match=words):
        put_back(backup, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda sums: sums + f"{'0' * 64}  files/../../other\n", "none of its lines"),
        (lambda sums: "".join(line for line in sums.splitlines(True) if "files/" not in line), "misses 1 files"),
    ],
    ids=["leads elsewhere", "too few"],
)
def test_sums_are_not_believed(data, tmp_path, change, words):
    """Who writes a backup cannot make a restore read or write another file, or go without one that the database names."""
    data.add(1)
    backup = data.backup(tmp_path / "made").path
    sums = change((backup / "SHA256SUMS").read_text())
    (backup / "SHA256SUMS").write_text(sums)
    manifest = read_manifest(backup)
    manifest.sums_sha256 = hashlib.sha256(sums.encode()).hexdigest()
    (backup / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(BackupError, match=words):
        verify(backup, quiet)


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"some bytEs")], ids=["missing", "other bytes"])
def test_damaged_files_can_be_left_out(data, tmp_path, harm):
    """One bad sector in a picture costs that picture: the refusal names the option, which restores the rest and tells."""
    data.add(1)
    data.add(2)
    backup = data.backup(tmp_path / "made").path
    names_of = [f"files/{ID(number)[:2]}/{ID(number)}" for number in (1, 2)]
    harm(backup / names_of[0])
    with pytest.raises(BackupError, match="--without-damaged-files"):
        put_back(backup, tmp_path / "other")
    done = put_back(backup, tmp_path / "other", without_damaged_files=True)
    assert [fault.split()[0] for fault in done.left_out] == names_of[:1]
    assert names(tmp_path / "other") == {"imserver.db", "imserver.lock", "secret", names_of[1]}


@pytest.mark.parametrize("name", ["imserver.db", "secret", "SHA256SUMS"])
def test_what_cannot_be_left_out(data, tmp_path, name):
    """Database, secret and sums are what a backup is; the option is not named, for it would not help."""
    data.add(1)
    backup = data.backup(tmp_path / "made").path
    (backup / "files" / ID(1)[:2] / ID(1)).unlink()
    with (backup / name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(BackupError) as caught:
        put_back(backup, tmp_path / "other", without_damaged_files=True)
    assert name in str(caught.value)
    assert "--without" not in str(caught.value)
    assert not (tmp_path / "other").exists()


# ---------------------------------------------------------------- restoring one


def test_restored_to_a_new_folder(data, tmp_path):
    """Mode 700, with the secret and the files; a server opens it."""
    data.add(1)
    backup = data.backup(tmp_path / "made").path
    other = tmp_path / "other"
    done = put_back(backup, other)
    assert done.aside is None
    assert names(other) == {"imserver.db", "imserver.lock", "secret", f"files/{ID(1)[:2]}/{ID(1)}"}
    assert stat.S_IMODE(other.stat().st_mode) == 0o700
    assert (other / "secret").read_text() == data.secret.read_text()
    Database(other, SCRIPTS).close()


def test_data_is_moved_aside_and_only_if_that_is_wanted(data, tmp_path):
    """Without `--replace` it is refused; with it all that was there is in the folder that is told."""
    backup = data.backup(tmp_path / "made").path
    data.add(1)
    before = names(data.folder)
    with pytest.raises(BackupError, match="--replace"):
        put_back(backup, data.folder)
    assert names(data.folder) == before
    done = put_back(backup, data.folder, replaces=True)
    assert names(done.aside) == before
    assert data.query("SELECT count(*) FROM files") == [(0,)]


def test_a_running_server_keeps_its_folder(data, tmp_path):
    """Its lock is what tells; `--replace` does not help."""
    backup = data.backup(tmp_path / "made").path
    database = Database(data.folder, SCRIPTS)
    with pytest.raises(BackupError, match="a server runs on"):
        put_back(backup, data.folder, replaces=True)
    database.close()
    assert put_back(backup, data.folder, replaces=True).aside is not None


def test_no_server_can_start_in_the_moment_of_the_exchange(data, tmp_path, monkeypatch):
    """Neither on the folder from before nor on the new one, until all is done."""
    backup = data.backup(tmp_path / "made").path
    refused = []
    exchange = places._exchange

    def look(one, other):
        for _ in range(2):
            with pytest.raises(StartError):
                Database(data.folder, SCRIPTS)
            refused.append(data.folder.stat().st_ino)
            if len(refused) == 1:
                exchange(one, other)

    monkeypatch.setattr(places, "_exchange", look)
    put_back(backup, data.folder, replaces=True)
    assert len(set(refused)) == 2


def test_a_folder_that_cannot_be_renamed(data, tmp_path, monkeypatch):
    """A mount point: what is in it goes into a folder below, and an interrupted restore is no server's data."""
    backup = data.backup(tmp_path / "made").path
    data.add(1)
    before = names(data.folder)
    monkeypatch.setattr(places, "_is_mount_point", lambda _: True)
    replace = os.replace

    def fail(source, target):
        if Path(source).name == "imserver.db":
            raise OSError(errno.EIO, "power cut")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(BackupError, match=r"cannot restore"):
        put_back(backup, data.folder, replaces=True)
    with pytest.raises(StartError, match="damaged"):
        Database(data.folder, SCRIPTS)
    [aside] = data.folder.glob("before-restore-*")
    assert names(aside) | {"imserver.lock"} == before
    monkeypatch.setattr(os, "replace", replace)
    put_back(backup, data.folder, replaces=True)
    Database(data.folder, SCRIPTS).close()
    assert names(aside) | {"imserver.lock"} == before
    assert data.query("SELECT count(*) FROM files") == [(0,)]


class Killed(BaseException):
    """In the place of a power cut: nothing that handles errors handles it."""


def kill_at(monkeypatch, within, number):
    """The process ends before the call of this number that changes a name within a folder."""
    calls = []

    def counted(name):
        change = getattr(os, name)

        def call(*args, **options):
            if any(within in str(arg) for arg in args):
                calls.append(name)
                if len(calls) > number:
                    raise Killed
            return change(*args, **options)

        monkeypatch.setattr(os, name, call)

    for name in ("rename", "replace", "link", "unlink"):
        counted(name)


def says(database, client_id):
    """Whether a database can be read and has a message with this id; looks at a copy, with its log."""
    copy = database.parent.with_name(f"{database.parent.name}.looked-at")
    copy.mkdir()
    try:
        for name in ("imserver.db", "imserver.db-wal"):
            if database.with_name(name).exists():
                shutil.copy(database.with_name(name), copy)
        with closing(apsw.Connection(str(copy / "imserver.db"))) as connection:
            return connection.execute("SELECT count(*) FROM messages WHERE client_id = ?", (client_id,)).get == 1
    except apsw.Error:
        return False
    finally:
        shutil.rmtree(copy)


def test_killed_at_any_moment_in_a_folder_that_cannot_be_renamed(tmp_path):
    """Whatever is there then is whole or refused, and the next restore leaves the old data whole: its log, its files."""
    origin = Data(tmp_path / "origin")
    origin.say(1, 1)
    backup = origin.backup(tmp_path / "made").path
    origin.add(1)
    # What a server leaves that was killed: a message that is in the log alone.
    with closing(apsw.Connection(str(origin.folder / "imserver.db"))) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(
            "INSERT INTO messages (id, conversation, seq, rev, sender, client_id, type, body) "
            "VALUES (1999, 1, 2, 2, 'a', 'in the log', 'text', x'a2')"
        )
        was_killed = True
        number = 0
        while was_killed:
            data = Data.__new__(Data)
            data.folder = tmp_path / f"data-{number}"
            shutil.copytree(origin.folder, data.folder)
            link = tmp_path / f"link-{number}"
            link.symlink_to(data.folder)
            with pytest.MonkeyPatch.context() as patch:
                kill_at(patch, str(data.folder), number)
                try:
                    put_back(backup, link, replaces=True)
                    was_killed = False
                except Killed:
                    pass
            live = data.folder / "imserver.db"
            is_guarded = live.read_bytes().startswith(b"A restore was interrupted here.")
            assert not was_killed or is_guarded or says(live, "in the log"), number
            if was_killed:
                with suppress(StartError):  # somebody who does not know what happened
                    Database(data.folder, SCRIPTS).close()
                done = put_back(backup, link, replaces=True)
                assert says(done.aside / "imserver.db", "in the log"), number
                assert (done.aside / "files" / ID(1)[:2] / ID(1)).exists(), number
                assert not says(live, "in the log")
                assert data.query("SELECT count(*) FROM files") == [(0,)]
                assert not list(data.folder.glob(".restore-*"))
                assert not list(data.folder.rglob("imserver.db-wal.*")), number  # one log, not two
                linked = [path for path in data.folder.glob("before-restore-*/imserver.db") if path.samefile(live)]
                assert linked == []
                # What a database has beside it is moved or copied with it; never does one have two asides.
                assert len(list(data.folder.glob("before-restore-*/imserver.db"))) == 1, number
            number += 1
    assert number > 8


def test_killed_where_nothing_was_before(data, tmp_path, monkeypatch, given):
    """No server begins an empty database on half of a restore."""
    backup = data.backup(tmp_path / "made").path
    empty, link = tmp_path / "empty", tmp_path / "link"
    empty.mkdir()
    link.symlink_to(empty)
    rename = os.rename

    def fail(source, target):
        rename(source, target)
        if Path(target).parent == empty:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail)
        with pytest.raises(Killed):
            put_back(backup, link)
    assert (empty / "imserver.db").stat().st_ino in given  # the server's user can read why
    with pytest.raises(StartError):
        Database(empty, SCRIPTS)
    put_back(backup, link, replaces=True)
    Database(empty, SCRIPTS).close()


def test_going_on_overwrites_nothing(data, tmp_path):
    """Something that came into the folder after the interruption, with a name that was moved aside already."""
    backup = data.backup(tmp_path / "made").path
    aside = data.folder / "before-restore-20260101T000000Z-abcd"
    aside.mkdir()
    for name in ("imserver.db", "secret"):
        (data.folder / name).rename(aside / name)
    (data.folder / "imserver.db").write_text(places._GUARD.format(how="being moved to", aside=aside.name))
    (data.folder / "secret").write_text("of later")
    link = tmp_path / "link"
    link.symlink_to(data.folder)
    assert put_back(backup, link, replaces=True).aside == aside
    assert (aside / "secret").read_bytes() == (backup / "secret").read_bytes()
    assert [path.read_text() for path in aside.glob("secret.*")] == ["of later"]


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EINVAL, errno.ENOSYS, errno.EXDEV])
def test_folders_that_cannot_be_exchanged(data, tmp_path, monkeypatch, given, number):
    """What looks like no mount point and is one, a disk that knows no exchange: then it is done inside."""
    backup = data.backup(tmp_path / "made").path
    data.add(1)
    before = names(data.folder)
    rename = os.rename

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    def across(source, target):
        if Path(source).parent != Path(target).parent and number == errno.EBUSY and Path(source).parent == tmp_path:
            raise OSError(errno.EXDEV, "another disk")
        rename(source, target)

    monkeypatch.setattr(places, "_exchange", refuse)
    monkeypatch.setattr(os, "rename", across)
    done = put_back(backup, data.folder, replaces=True)
    assert done.aside.parent == data.folder
    assert names(done.aside) | {"imserver.lock"} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "made"]
    assert (data.folder / "imserver.db").stat().st_ino in given
    Database(data.folder, SCRIPTS).close()
    assert data.query("SELECT count(*) FROM files") == [(0,)]


def test_an_exchange_that_fails_leaves_all_as_it_was(data, tmp_path, monkeypatch):
    """And no copy of the backup under the name of what was there before."""
    backup = data.backup(tmp_path / "made").path
    before = names(data.folder)

    def refuse(*_):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(places, "_exchange", refuse)
    with pytest.raises(BackupError, match="broken"):
        put_back(backup, data.folder, replaces=True)
    assert names(data.folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "made"]


def test_mount_points_are_known_by_the_kernels_list(tmp_path, monkeypatch):
    """A bind mount has the device of its parent; its name may have spaces."""
    folder = tmp_path / "two words"
    folder.mkdir()
    name = str(folder).replace(" ", "\\040")
    line = f"36 35 98:0 /mnt1 {name} rw,noatime master:1 - ext3 /dev/root rw\n"
    read = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: line.encode() if str(path) == "/proc/self/mountinfo" else read(path)
    )
    assert places._is_mount_point(folder)
    assert not places._is_mount_point(tmp_path)


def test_what_a_killed_restore_left_is_removed(data, tmp_path):
    """Beside, inside, and the draft of the secret; but not what is under way, and nothing of another name."""
    backup = data.backup(tmp_path / "made").path
    etc = tmp_path / "etc"
    etc.mkdir()
    left = [tmp_path / ".data.restore-0123abcd", data.folder / ".restore-0123abcd", etc / ".secret.restore-0123abcd"]
    kept = [tmp_path / ".data.restore-mine", tmp_path / ".data.restore-4567abcd"]
    for path in (*left[:2], *kept):
        path.mkdir()
    left[2].write_text("x")
    with places.locked(kept[1]):
        put_back(backup, data.folder, replaces=True, secret=etc / "secret")
        link = tmp_path / "link"
        link.symlink_to(data.folder)
        left[1].mkdir(exist_ok=True)
        put_back(backup, link, replaces=True, secret=etc / "secret")
    assert [path for path in left if path.exists()] == []
    assert all(path.exists() for path in kept)
    assert [path.name for path in etc.iterdir()] == ["secret"]


def test_a_secret_that_cannot_be_put_in_place(data, tmp_path, monkeypatch):
    """It is the last step: the message says where everything is. If an earlier one fails nothing is left of it."""
    backup = data.backup(tmp_path / "made").path
    data.add(1)
    secret = tmp_path / "etc" / "secret"
    secret.parent.mkdir()
    secret.write_text("another one")
    before = names(data.folder)
    with monkeypatch.context() as patch:
        patch.setattr(places.Place, "put", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        with pytest.raises(BackupError, match="broken"):
            put_back(backup, data.folder, replaces=True, secret=secret)
    assert (names(data.folder), names(secret.parent)) == (before, {"secret"})
    replace = os.replace

    def fail(source, target):
        if Path(target) == secret:
            raise PermissionError(errno.EPERM, "not permitted")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(BackupError, match="is restored") as caught:
            put_back(backup, data.folder, replaces=True, secret=secret)
    [draft] = secret.parent.glob(".secret.restore-*")
    [aside] = secret.parent.glob("secret.before-restore-*")
    [data_aside] = tmp_path.glob("data.before-restore-*")
    assert str(draft) in str(caught.value)
    assert str(data_aside) in str(caught.value)
    assert (draft.read_bytes(), aside.read_text()) == ((backup / "secret").read_bytes(), "another one")
    assert secret.read_text() == "another one"
    assert data.query("SELECT count(*) FROM files") == [(0,)]


def test_root_leaves_nothing_to_root(data, tmp_path, given):
    """A folder that cannot be renamed, the secret elsewhere and its new folder: all is the data folder's owner's."""
    backup = data.backup(tmp_path / "made").path
    given.clear()
    volume, link, etc = tmp_path / "volume", tmp_path / "link", tmp_path / "etc"
    volume.mkdir()
    link.symlink_to(volume)
    there = set()
    for number in range(2):
        given.clear()  # numbers of inodes are used again
        done = put_back(backup, link, replaces=bool(number), secret=etc / "secret")
        made = [path for path in (*volume.rglob("*"), etc, *etc.iterdir()) if path.lstat().st_ino not in there]
        assert {path: given.get(path.lstat().st_ino) for path in made} == dict.fromkeys(made, volume.stat().st_uid)
        there = {path.lstat().st_ino for path in made}
    assert done.aside in made


def test_roots_refused_restore_does_not_keep_the_server_out(data, tmp_path, given):
    """The lock that it makes is the folder's owner's; one that is there already is not touched: it may be a link."""
    volume = tmp_path / "volume"
    volume.mkdir()
    for _ in range(2):
        with pytest.raises(BackupError, match="no backup"):
            put_back(tmp_path / "a wrong name", volume)
    [lock] = volume.iterdir()
    assert given == {lock.stat().st_ino: volume.stat().st_uid}
    other, elsewhere = tmp_path / "other", tmp_path / "elsewhere"
    other.mkdir()
    elsewhere.write_text("")
    (other / "imserver.lock").symlink_to(elsewhere)
    with pytest.raises(BackupError, match="no backup"):
        put_back(tmp_path / "a wrong name", other)
    assert elsewhere.stat().st_ino not in given


def test_a_newer_database_is_refused(data, tmp_path):
    """This program does not know its tables, so it does not put them anywhere."""
    backup = data.backup(tmp_path / "made").path
    with pytest.raises(BackupError, match="newer than this program"):
        put_back(backup, tmp_path / "other", scripts={"file": ()})
    assert not (tmp_path / "other").exists()


def test_a_full_disk_leaves_all_as_it_was(data, tmp_path, monkeypatch):
    """Nothing is left beside, either."""
    backup = data.backup(tmp_path / "made").path
    before = names(data.folder)

    def fail(*_):
        raise parts.disk_error("cannot copy", OSError(errno.ENOSPC, "full"))

    monkeypatch.setattr(parts, "copy", fail)
    with pytest.raises(BackupError, match="the disk is full"):
        put_back(backup, data.folder, replaces=True)
    assert names(data.folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "made"]


def test_a_secret_elsewhere(data, tmp_path):
    """`auth.secret_file` outside of the folder: put where it belongs, the one from before beside it."""
    backup = data.backup(tmp_path / "made").path
    secret = tmp_path / "etc" / "secret"
    assert put_back(backup, tmp_path / "one", secret=secret).secret_aside is None
    assert secret.read_text() == data.secret.read_text()
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    secret.write_text("another one, of another time")
    with pytest.raises(BackupError, match="is not the one of the backup"):
        put_back(backup, tmp_path / "two", secret=secret)
    done = put_back(backup, tmp_path / "two", secret=secret, replaces=True)
    assert done.secret_aside.read_text() == "another one, of another time"
    assert secret.read_text() == data.secret.read_text()
    assert "secret" not in names(tmp_path / "two")


def test_a_backup_without_the_secret_leaves_the_present_one(data, tmp_path):
    """In the folder that is replaced, too, and below it: clients stay logged in."""
    for number, secret in enumerate([data.secret, data.folder / "keys" / "own"]):
        secret.parent.mkdir(exist_ok=True)
        secret.write_text(f"the present one, {number}")
        backup = make_backup(data.folder, None, tmp_path / f"made-{number}", quiet).path
        assert "secret" not in names(backup)
        done = put_back(backup, data.folder, replaces=True, secret=secret)
        assert secret.read_text() == f"the present one, {number}"
        assert (done.aside / secret.relative_to(data.folder)).exists()


def test_numbers_are_never_given_out_twice(data, tmp_path):
    """Restored again and again from one backup, each time behind all that was given out since."""
    for seq in (1, 2, 3):
        data.say(1, seq)
    data.say(2, 1)
    backup = data.backup(tmp_path / "made").path
    floors = []
    for number in range(2):
        other = Data.__new__(Data)
        other.folder = tmp_path / f"other-{number}"
        floors.append(put_back(backup, other.folder).first_seq)
        rows = other.query(
            "SELECT conversation, seq, rev, silent, expires_at FROM messages WHERE silent IS NOT NULL ORDER BY id"
        )
        assert rows == [(1, floors[-1], floors[-1], floors[-1] - 3, 0), (2, floors[-1], floors[-1], floors[-1] - 1, 0)]
        # New to every device, and in the order of before.
        changes = other.query("SELECT changed FROM conversations ORDER BY number")
        assert changes == sorted(set(changes))
        assert changes[0][0] > data.query("SELECT max(id) FROM messages")[0][0]
    # A server that has gone on from the first restore, and its backup.
    again = Data.__new__(Data)
    again.folder, again.secret = tmp_path / "other-1", tmp_path / "other-1" / "secret"
    third = put_back(again.backup(tmp_path / "later").path, tmp_path / "other-2").first_seq
    assert third >= floors[1] + MIN_GAP


# ---------------------------------------------------------------- the command line


def imserver(data, *words):
    """The program itself, for a data folder, without plugins."""
    settings = (f"server.data_dir={data.folder}", f"auth.secret_file={data.secret}", "plugins.enabled=[]")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("IMSERVER_")}
    return subprocess.run(
        [sys.executable, "-m", "imserver", *map(str, words), *(word for one in settings for word in ("--set", one))],
        cwd=data.folder.parent, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_what_the_operator_is_told(data, tmp_path):
    """Of names in the future; of the option, when a file is damaged; of what was left out, and where the old data is."""
    data.add(1)
    folder = tmp_path / "backups"
    folder.mkdir()
    ahead = folder / rotation.next_name(datetime(2938, 1, 1, tzinfo=UTC))
    data.backup(ahead)
    done = imserver(data, "backup", folder, "--keep", "1")
    assert done.returncode == 0, done.stderr
    assert "backup_names_in_the_future" in done.stderr
    [made] = folder.iterdir()
    assert done.stdout.strip() == str(made) != str(ahead)
    name = f"files/{ID(1)[:2]}/{ID(1)}"
    (made / name).unlink()
    refused = imserver(data, "restore", made, "--replace")
    assert refused.returncode == 1
    assert "--without-damaged-files" in refused.stderr
    done = imserver(data, "restore", made, "--replace", "--without-damaged-files")
    assert done.returncode == 0, done.stderr
    assert f"left out: {name} is missing" in done.stderr
    assert (Path(done.stdout.strip()) / name).exists()
