"""The database class itself: what it refuses to open, what a commit stores, what a reader sees."""

import threading

import apsw
import pytest
import trio
from helpers import InlineReads, now

from imserver.batch import Batch, Write
from imserver.errors import ConstraintViolated, StartError, StorageError, StorageUnavailable
from imserver.storage.conversations import ConversationStore
from imserver.storage.cursors import cursor_statements
from imserver.storage.database import Database, offline
from imserver.storage.migrations import APPLICATION_ID

ONE = ("CREATE TABLE things (name TEXT PRIMARY KEY, size INTEGER CHECK (size > 0)) STRICT",)


@pytest.fixture
def open_database(tmp_path):
    """A factory of databases in this test's folder; all are closed afterwards."""
    opened = []

    def make(migrations=None, folder=tmp_path):
        opened.append(Database(folder, {"p": ONE} if migrations is None else migrations))
        return opened[-1]

    yield make
    for database in opened:
        database.close()


def batch_of(*units):
    """A batch of plugins' writes: each unit is a list of (sql, params)."""
    batch = Batch(1, 1)
    batch.writes = [Write(list(unit), 0) for unit in units]
    return batch


def thing(name, size=1):
    return ("INSERT INTO things VALUES (?, ?)", (name, size))


def names(database):
    return [name for (name,) in database.read_now("SELECT name FROM things ORDER BY name")]


# ---------------------------------------------------------------- opening


def test_a_new_folder_is_made_for_its_owner_alone(tmp_path, open_database):
    """data_dir is made with mode 700; the file is marked as ours."""
    folder = tmp_path / "deep" / "data"
    database = open_database(folder=folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert database.read_now("PRAGMA application_id") == [(APPLICATION_ID,)]
    assert database.read_now("PRAGMA journal_mode") == [("wal",)]


def test_two_servers_on_one_folder(tmp_path, open_database):
    """The second is refused with the folder's name; after the first has ended it starts."""
    first = open_database()
    with pytest.raises(StartError, match="in use") as caught:
        Database(tmp_path, {})
    assert str(tmp_path) in str(caught.value)
    first.commit(batch_of([thing("a")]))
    first.close()
    second = Database(tmp_path, {"p": ONE})
    assert names(second) == ["a"]
    second.close()


def test_a_newer_database(tmp_path):
    """A downgrade is refused and changes nothing."""
    Database(tmp_path, {"p": (*ONE, "CREATE TABLE later (x) ")}).close()
    before = (tmp_path / "imserver.db").read_bytes()
    with pytest.raises(StartError, match="newer"):
        Database(tmp_path, {"p": ONE})
    assert (tmp_path / "imserver.db").read_bytes() == before


def test_a_changed_migration(tmp_path):
    """A released script that was edited is refused; an added one runs."""
    Database(tmp_path, {"p": ONE}).close()
    with pytest.raises(StartError, match="never change"):
        Database(tmp_path, {"p": (ONE[0] + " ",)})
    database = Database(tmp_path, {"p": (*ONE, "ALTER TABLE things ADD COLUMN colour TEXT")})
    assert database.read_now("SELECT count(colour) FROM things") == [(0,)]
    database.close()


def test_a_migration_that_fails_changes_nothing(tmp_path):
    """All scripts of a start run in one transaction."""
    with pytest.raises(StartError):
        Database(tmp_path, {"p": ONE, "q": ("CREATE TABLE fine (x)", "CREATE TABLE nonsense (")})
    database = Database(tmp_path, {})
    tables = database.read_now("SELECT name FROM sqlite_schema WHERE name IN ('things', 'fine', 'nonsense')")
    assert tables == []
    database.close()


def test_another_programs_database(tmp_path):
    """It is refused by name and not touched."""
    path = tmp_path / "imserver.db"
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE mine (x); INSERT INTO mine VALUES (1)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StartError, match="another program") as caught:
        Database(tmp_path, {})
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["no database", "header", "page", "cut"])
def test_a_damaged_file(tmp_path, damage):
    """It is refused with its path and what to do; the lock is free again."""
    path = tmp_path / "imserver.db"
    database = Database(tmp_path, {"p": ONE})
    database.commit(batch_of([thing(f"n{index}" * 50) for index in range(500)]))
    database.close()
    data = bytearray(path.read_bytes())
    assert len(data) > 16 * 4096
    if damage == "no database":
        data[:] = b"not a database, " * 5000
    elif damage == "header":
        data[:16] = b"\0" * 16
    elif damage == "page":
        for page in range(8, 16):
            data[page * 4096 : page * 4096 + 200] = b"\xa5" * 200
    else:
        del data[len(data) // 2 :]
    path.write_bytes(data)
    for _ in range(2):
        with pytest.raises(StartError, match="damaged") as caught:
            Database(tmp_path, {"p": ONE})
        assert str(path) in str(caught.value)


def test_a_folder_that_cannot_be_used(tmp_path):
    """A file in the way, or a path through one: the message names data_dir."""
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(StartError, match="data_dir"):
            Database(folder, {})


# ---------------------------------------------------------------- commits


def test_a_unit_that_breaks_a_constraint_leaves_the_others(open_database):
    """Each unit is stored whole or not at all; its own error tells which."""
    database = open_database()
    database.commit(batch_of([thing("a")]))
    batch = batch_of(
        [thing("b")],
        [thing("c"), thing("a"), thing("d")],
        [("INSERT INTO things VALUES ('e', 5) RETURNING name, size", ()), thing("f")],
        [thing("g", -1)],
        [("INSERT INTO nowhere VALUES (1)", ())],
        [("INSERT INTO things VALUES (?, ?)", ("one value",))],
        [thing("h", 2**70)],
        [thing(object())],
        [thing("\ud800")],
        [thing("i")],
    )
    database.commit(batch)
    assert names(database) == ["a", "b", "e", "f", "i"]
    kinds = [None if write.error is None else type(write.error) for write in batch.writes]
    assert kinds == [
        None, ConstraintViolated, None, ConstraintViolated, *[StorageError] * 5, None,
    ]  # fmt: skip
    assert batch.writes[2].results == [[("e", 5)], []]


def test_a_bound_unit_takes_the_batch_with_it(open_database):
    """Its handler had appended messages as well: neither is stored, nor anything else of that commit."""
    database = open_database()
    batch = batch_of([thing("a")], [thing("a")])
    batch.writes[1].is_bound = True
    with pytest.raises(StorageUnavailable):
        database.commit(batch)
    assert names(database) == []
    database.commit(batch_of([thing("b")]))
    assert names(database) == ["b"]


def test_a_message_that_cannot_be_stored_leaves_nothing(open_database):
    """A row that breaks the core's own rules fails its commit; the connection is good for the next one."""
    database = open_database()
    batch = batch_of([thing("a")])
    row = (1, 1, 1, 1, None, "ann", "k", "text", b"\xa1x", None, None)
    batch.message_params = [*row, *row]
    with pytest.raises(StorageUnavailable):
        database.commit(batch)
    assert names(database) == []
    batch = Batch(2, 1)
    batch.message_params = list(row)
    database.commit(batch)
    assert database.read_now("SELECT count(*) FROM messages") == [(1,)]


def test_a_long_batch_whose_last_message_cannot_be_stored_leaves_nothing(open_database):
    """It goes in pieces, but is stored as a whole or not at all."""
    database = open_database()
    batch = Batch(1, 1)
    for seq in [*range(1, 1000), 1]:
        batch.message_params += (seq, 1, seq, seq, None, "ann", f"k{seq}", "text", b"\xa1x", None, None)
    with pytest.raises(StorageUnavailable):
        database.commit(batch)
    assert database.read_now("SELECT count(*) FROM messages") == [(0,)]
    batch.message_params = batch.message_params[: -len(batch.message_params) // 1000]
    database.commit(batch)
    assert database.read_now("SELECT count(*) FROM messages") == [(999,)]


@pytest.mark.parametrize("count", [1, 63, 64, 127, 128, 129, 1000, 7000])
@pytest.mark.parametrize("is_mixed", [False, True])
def test_batches_of_any_size(open_database, count, is_mixed):
    """SQLite bounds the values of a statement; a commit does not show where it was cut."""
    database = open_database()
    batch = batch_of([thing("with")]) if is_mixed else Batch(1, 1)
    for seq in range(1, count + 1):
        batch.message_params += (seq, 1, seq, seq, None, "ann", f"k{seq}", "text", b"\xa1x", None, None)
    database.commit(batch)
    assert database.read_now("SELECT count(*), max(seq) FROM messages") == [(count, count)]


def test_an_empty_batch(open_database):
    """All that was in it was taken back: nothing is written, nothing raised."""
    open_database().commit(Batch(1, 1))


def test_a_commit_beside_another_process_s_lock(tmp_path, open_database, monkeypatch):
    """It waits, gives up with StorageUnavailable, and the next one goes through."""
    database = open_database()
    monkeypatch.setattr("imserver.storage.database._BUSY_TIMEOUT_MS", 20)
    database._writer.set_busy_timeout(20)
    other = apsw.Connection(str(tmp_path / "imserver.db"))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageUnavailable, match="locked"):
        database.commit(batch_of([thing("a")]))
    other.execute("COMMIT")
    other.close()
    database.commit(batch_of([thing("b")]))
    assert names(database) == ["b"]


def test_offline_beside_an_open_database(tmp_path, open_database):
    """A command-line tool writes while a server runs; both see what the other has committed, and its close harms none."""
    database = open_database()
    database.commit(batch_of([thing("a")]))
    with offline(tmp_path, {"p": ONE}) as connection:
        assert connection.execute("SELECT name FROM things").fetchall() == [("a",)]
        with connection:
            connection.execute("INSERT INTO things VALUES ('tool', 1)")
        assert names(database) == ["a", "tool"]
        database.commit(batch_of([thing("b")]))
    database.tend(idle=True)
    database.commit(batch_of([thing("c")]))
    assert names(database) == ["a", "b", "c", "tool"]
    assert database.read_now("PRAGMA integrity_check") == [("ok",)]


def test_offline_beside_an_older_server(tmp_path, open_database):
    """A newer program changes no table under it: it says that the server is to be restarted, and then goes on."""
    newer = {"p": (*ONE, "CREATE TABLE later (x)")}
    database = open_database()
    says = r"restart the server .* `p` are at migration 1, this program's are at 2"
    with pytest.raises(StartError, match=says), offline(tmp_path, newer):
        raise AssertionError("it was opened")
    assert database.read_now("SELECT count(*) FROM sqlite_schema WHERE name = 'later'") == [(0,)]
    database.commit(batch_of([thing("a")]))
    database.close()
    with offline(tmp_path, newer) as connection:
        assert connection.execute("SELECT count(*) FROM later").get == 0
    Database(tmp_path, newer).close()


def test_offline_makes_the_tables(tmp_path):
    """`imserver user add` works before the first start."""
    folder = tmp_path / "data"
    with offline(folder, {"p": ONE}) as connection, connection:
        connection.execute("INSERT INTO things VALUES ('first', 1)")
    database = Database(folder, {"p": ONE})
    assert names(database) == ["first"]
    database.close()


# ---------------------------------------------------------------- readers


async def test_a_read_transaction_sees_one_snapshot(open_database):
    """What is committed between its queries is not seen; the next transaction sees it."""
    database = open_database()
    database.commit(batch_of([thing("a")]))
    committed = threading.Event()
    first_read = threading.Event()

    def read(query):
        before = query("SELECT count(*) FROM things")
        first_read.set()
        committed.wait(10)
        return before + query("SELECT count(*) FROM things")

    result = []

    async def reader():
        result.append(await database.read_transaction(read))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        await trio.to_thread.run_sync(first_read.wait)
        database.commit(batch_of([thing("b")]))
        committed.set()
    assert result == [[(1,), (1,)]]
    assert await database.read("SELECT count(*) FROM things") == [(2,)]


async def test_readers_cannot_write_and_survive_errors(open_database):
    """A plugin's `read` that writes or is wrong raises; each connection goes back to the pool."""
    database = open_database()
    for _ in range(10):
        with pytest.raises(StorageError):
            await database.read("SELECT * FROM nowhere")
        with pytest.raises(StorageError):
            await database.read("INSERT INTO things VALUES ('x', 1)")
        with pytest.raises(ZeroDivisionError):
            await database.read_transaction(lambda query: 1 / 0)
    assert await database.read("SELECT count(*) FROM things WHERE size = :s", {"s": 1}) == [(0,)]


async def test_a_reader_that_is_given_up(open_database):
    """A caller past its deadline goes on; the connection comes back when the thread is done."""
    database = open_database()
    go = threading.Event()
    with trio.move_on_after(0.01):
        await database.read_transaction(lambda query: go.wait(10))
    go.set()
    for _ in range(10):
        assert await database.read("SELECT 1") == [(1,)]


def test_what_the_start_needs_to_know(open_database):
    """The last Snowflake is the largest of ids, change numbers and the fold; of an empty database it is 0."""
    database = open_database()
    store = ConversationStore(InlineReads(database))
    assert (store.last_snowflake(), store.last_conversation()) == (0, 0)
    batch = Batch(1, 1)
    batch.opened = [((4, "d:a:b", "direct", 70), [(4, "a", 0, 0, 0, 70), (4, "b", 0, 0, 0, 90)])]
    batch.message_params = [80, 4, 1, 1, None, "a", "k", "text", b"\xa1x", None, None]
    database.commit(batch)
    assert (store.last_snowflake(), store.last_conversation()) == (90, 4)
    batch = batch_of(cursor_statements([(4, "a", 1)], 100))
    database.commit(batch)
    assert store.last_snowflake() == 100
    loaded = now(store.load("d:a:b", 0))
    assert (loaded.number, loaded.last_seq) == (4, 1)
    assert sorted(row[:4] for row in loaded.members) == [("a", 0, 1, 0), ("b", 0, 0, 0)]
    assert now(store.load("d:x:y", 0)) is None
