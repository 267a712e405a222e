"""The journal by itself: what counts for its bound, and what happens when a commit does not return."""

import threading

import structlog
from helpers import ManualJournal, ManualShard

from imserver.batch import Write, bytes_of
from imserver.journal import MAX_BATCH_BYTES, Journal
from imserver.watch import CommitWatch

BIG = b"x" * (1 << 20)


class Disk:
    """A store whose commits return when the test says so."""

    def __init__(self):
        self.entered = threading.Event()
        self.well = threading.Event()

    def commit(self, batch):
        self.entered.set()
        self.well.wait(20)

    def tend(self, *, idle):
        pass


def journal_on(disk, **options):
    """A journal with one shard."""
    journal = Journal(disk, lambda batches: None, **options)
    journal.start([ManualShard()])
    return journal


def write_something(journal):
    """Something that the writer takes at once."""
    with journal.lock:
        journal.open_batch().writes.append(Write([], 0))
    journal.submit()


# ---------------------------------------------------------------- the bound


def test_frames_count_for_the_bound():
    """Frames that wait fill a batch by their bytes, and by their number where they are small."""
    journal = ManualJournal(Disk(), lambda batches: None)
    journal.start([ManualShard()])
    with journal.lock:
        batch = journal.open_batch()
    batch.held_bytes = MAX_BATCH_BYTES - 1
    assert not journal.is_full
    batch.held_bytes += 1
    assert journal.is_full
    batch.held_bytes = 0
    assert not journal.is_full
    batch.frames[0] += [(None, b"", 0)] * 200_000
    assert journal.is_full


def test_what_waits_for_the_batch_that_is_being_committed():
    """Answers to those who only read wait with it: it counts from twice the bound on, and until it is done."""
    disk = Disk()
    disk.well.set()
    journal = ManualJournal(disk, lambda batches: None)
    journal.start([ManualShard()])
    write_something(journal)
    batch = journal.take()
    batch.held_bytes = 2 * MAX_BATCH_BYTES - 1
    assert not journal.is_full
    batch.held_bytes += 1
    assert journal.is_full
    assert journal.finish(batch)
    assert not journal.is_full


def test_the_size_of_sql():
    """Texts and bytes of the values count, by position or by name; numbers do not."""
    assert bytes_of([("", (BIG, "text", 1, None)), ("", {"a": b"xy", "b": 2.0})]) == len(BIG) + 4 + 2


# ---------------------------------------------------------------- a disk that hangs


def test_stop_does_not_wait_for_ever():
    """`stop` gives up after its limit and says so; when the commit has returned it succeeds."""
    disk = Disk()
    with structlog.testing.capture_logs() as log:
        journal = journal_on(disk)
    write_something(journal)
    assert disk.entered.wait(10)
    with structlog.testing.capture_logs() as log:
        assert journal.stop(0.01) is False
    assert [line["event"] for line in log] == ["journal_stuck"]
    disk.well.set()
    assert journal.stop() is True


def test_a_commit_has_an_age():
    """It rises while the commit lasts, and is 0 without one."""
    now = [100.0]
    disk = Disk()
    journal = journal_on(disk, monotonic=lambda: now[0])
    assert journal.commit_age_s == 0
    write_something(journal)
    assert disk.entered.wait(10)
    now[0] += 7.5
    assert journal.commit_age_s == 7.5
    disk.well.set()
    assert journal.stop()
    assert journal.commit_age_s == 0


def test_slow_commits_are_told():
    """One line after a second, then each ten; the next slow one is told anew."""

    class Ages:
        commit_age_s = 0.0

    ages = Ages()
    with structlog.testing.capture_logs() as log:
        watch = CommitWatch(ages)
        for age_s in (0, 0.9, 1.2, 1.5, 9.9, 10.1, 15, 20.3, 35, 39, 40, 0, 1.1):
            ages.commit_age_s = age_s
            watch.look()
    assert {line["event"] for line in log} == {"commit_slow"}
    assert [line["seconds"] for line in log] == [1.2, 10.1, 20.3, 35, 40, 1.1]
