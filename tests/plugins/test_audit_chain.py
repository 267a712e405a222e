"""The hash chain of the audit log: no change goes unseen."""

import random

import pytest

from imserver_plugins.audit.chain import GENESIS, Broken, Entry, Head, seal, verify

SIZE = 40


def a_log(size=SIZE):
    plain = [Entry(number, 1000 + number, f"event_{number % 5}", f'{{"n":{number}}}', None) for number in range(1, size + 1)]
    return [
        Entry(entry.id, entry.at, entry.event, entry.fields, hash_)
        for entry, (_, hash_) in zip(plain, seal(Head(0, GENESIS), plain), strict=True)
    ]


def changed(entry, **fields):
    return Entry(**{name: fields.get(name, getattr(entry, name)) for name in ("id", "at", "event", "fields", "hash")})


def test_what_was_written_is_good():
    """A log verifies; so does one whose newest entries have no hashes yet, and heads that were put down."""
    log = a_log()
    head, unsealed = verify(log, SIZE, [Head(1, log[0].hash), Head(SIZE, log[-1].hash)])
    assert (head, unsealed) == (Head(SIZE, log[-1].hash), 0)
    waiting = [*log, Entry(SIZE + 1, 1, "new", "{}", None)]
    assert verify(waiting, SIZE + 1) == (head, 1)
    assert verify([], 0) == (Head(0, GENESIS), 0)


def test_every_mutation_is_found():
    """A thousand changes of any kind, at any place: each one is found."""
    chance = random.Random(7)

    def mutate(log):
        at = chance.randrange(len(log))
        entry = log[at]
        kind = chance.randrange(8)
        if kind == 0:
            log[at] = changed(entry, at=entry.at + chance.choice((-1, 1, 1000)))
        elif kind == 1:
            log[at] = changed(entry, event=entry.event + "x")
        elif kind == 2:
            log[at] = changed(entry, fields=entry.fields.replace(":", ": "))
        elif kind == 3:
            position = chance.randrange(32)
            flipped = bytes(byte ^ (index == position) for index, byte in enumerate(entry.hash))
            log[at] = changed(entry, hash=flipped)
        elif kind == 4:
            del log[at]
        elif kind == 5:
            other = (at + 1 + chance.randrange(len(log) - 1)) % len(log)
            log[at], log[other] = changed(log[other], id=entry.id), changed(entry, id=log[other].id)
        elif kind == 6:
            log.insert(at, entry)
        else:
            log[at] = changed(entry, id=entry.id + chance.choice((-1, 1)))

    for _ in range(1000):
        log = a_log()
        mutate(log)
        with pytest.raises(Broken):
            verify(log, SIZE)


def test_a_chain_that_was_made_anew_is_found_by_its_head():
    """Who can write all the hashes again is found out by one that was put down elsewhere."""
    log = a_log()
    forged = [changed(entry, fields='{"n":0}') if entry.id == 7 else entry for entry in log]
    hashes = dict(seal(Head(0, GENESIS), forged))
    forged = [changed(entry, hash=hashes[entry.id]) for entry in forged]
    verify(forged, SIZE)
    for number in (7, 20, SIZE):
        with pytest.raises(Broken, match=f"entry {number} has another hash"):
            verify(forged, SIZE, [Head(number, log[number - 1].hash)])
    verify(forged, SIZE, [Head(6, log[5].hash)])


def test_the_end_cannot_be_cut_off():
    """The number of the newest entry that was ever written tells; a head that is beyond the end, too."""
    log = a_log()
    with pytest.raises(Broken, match=f"entries {SIZE} to {SIZE} are missing"):
        verify(log[:-1], SIZE)
    with pytest.raises(Broken, match="nobody wrote"):
        verify(log, SIZE - 1)
    with pytest.raises(Broken, match=f"entry {SIZE}, whose hash was put down, is missing"):
        verify(log[:-1], SIZE - 1, [Head(SIZE, log[-1].hash)])
    with pytest.raises(Broken, match="entry 5 has no hash"):
        verify([changed(entry, hash=None) if entry.id == 5 else entry for entry in log], SIZE)
