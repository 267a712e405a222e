"""The plugins' cache: bounded, least recently used first out, never older than what was put or dropped."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from imserver.cache import Cache
from imserver.errors import NotLoaded

keys = st.integers(0, 9)
operations = st.lists(st.tuples(st.sampled_from(["get", "put", "pop"]), keys), max_size=60)


@given(operations, st.integers(1, 6))
def test_it_is_a_bounded_lru(script, bound):
    """Against a list in the order of use."""
    cache = Cache("p", bound)
    model = {}
    for step, (operation, key) in enumerate(script):
        if operation == "put":
            cache.put(key, step)
            model.pop(key, None)
            model[key] = step
            while len(model) > bound:
                del model[next(iter(model))]
        elif operation == "pop":
            cache.pop(key)
            model.pop(key, None)
        else:
            assert cache.get(key, "none") == model.get(key, "none")
            if key in model:
                model[key] = model.pop(key)
        assert len(cache) == len(model) <= bound
    assert {key: cache.get(key) for key in model} == model


def test_none_is_a_value():
    """That there is no such user is worth remembering."""
    cache = Cache("p")
    cache.put("k", None)
    assert cache.get("k", "other") is None
    assert cache.load("k", lambda: pytest.fail("it is loaded again")) is None


async def test_load_asks_and_keeps():
    """`load` raises what the router needs; its loader's result is there the next time."""
    cache = Cache("p")

    async def loader():
        return 41

    with pytest.raises(NotLoaded) as caught:
        cache.load("k", loader)
    assert caught.value.key == ("p", "k")
    await caught.value.loader()
    assert cache.load("k", loader) == 41


async def test_a_loader_that_fails_leaves_nothing():
    """The error reaches whoever waits, and the next load tries again."""
    cache = Cache("p")

    async def loader():
        raise LookupError("gone")

    with pytest.raises(LookupError):
        await cache.fetch("k", loader)
    assert len(cache) == 0


async def test_what_is_dropped_during_a_load_is_loaded_again():
    """A `pop` says that the value has changed: a load that read before it must not put the old one back."""
    cache = Cache("p")
    values = iter(["old", "new"])

    async def loader():
        value = next(values)
        if value == "old":
            cache.pop("k")
        await trio.lowlevel.checkpoint()
        return value

    assert await cache.fetch("k", loader) == "new"
    assert cache.get("k") == "new"


async def test_what_is_put_during_a_load_wins():
    """A `put` is newer than what a load read before it."""
    cache = Cache("p")

    async def loader():
        await trio.lowlevel.checkpoint()
        cache.put("k", "new")
        return "old"

    assert await cache.fetch("k", loader) == "new"
    assert cache.get("k") == "new"


def test_twins_drop_what_the_other_changes():
    """While a reload lets two instances run, what one drops or puts is dropped by the other; values never cross over."""
    old, new = Cache("p"), Cache("p")
    old.twin, new.twin = new, old
    for one, other in ((old, new), (new, old)):
        for change in (one.pop, lambda key, one=one: one.put(key, "fresh")):
            other.put("k", "stale")
            change("k")
            assert other.get("k") is None
    assert new.get("k") == "fresh"
    old.twin = new.twin = None
    new.put("k", "mine")
    old.pop("k")
    assert new.get("k") == "mine"


async def test_a_load_that_a_twin_made_stale():
    """A load that began before the other instance's change is done again."""
    old, new = Cache("p"), Cache("p")
    old.twin, new.twin = new, old
    loaded = []

    async def load():
        loaded.append(len(loaded))
        if len(loaded) == 1:
            old.pop("k")  # a write of a request that ends in the old code
        return loaded[-1]

    assert await new.fetch("k", load) == 1
    assert new.get("k") == 1
