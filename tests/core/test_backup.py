"""Backups in folders: what is in them, what is never overwritten, and what a restore does at each of its faults."""

import errno
import hashlib
import os
import shutil
import stat
import subprocess
from datetime import UTC, datetime
from pathlib import Path

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


def put_back(backup, folder, *, replaces=False, scripts=SCRIPTS, secret=None):
    return restore(backup, folder, secret or folder / "secret", scripts, quiet, replaces=replaces)


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
    assert rotation.remove_old(tmp_path, 2) == [made[0]]
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
