"""Conversation ids of two users (wire protocol, section 3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imserver.errors import InvalidBody
from imserver.protocol.message import direct_conversation_id, parties_of

user_ids = st.text("ABYZabyz0189_-.@", min_size=1, max_size=10)


@given(user_ids, user_ids)
def test_a_direct_conversation_has_one_id(one, other):
    """Whoever asks, it is the same id, in byte order, and gives its parties back."""
    conversation_id = direct_conversation_id(one, other)
    assert conversation_id == direct_conversation_id(other, one)
    assert conversation_id == "d:" + ":".join(sorted([one, other], key=str.encode))
    assert parties_of(conversation_id) == tuple(sorted([one, other], key=str.encode))


@pytest.mark.parametrize(
    "wrong", ["", "d:", "d::", "d:a", "d:a:", "d::a", "d:b:a", "g:a:b", "x:a:b", "d:a:b:c", "da:b", " d:a:b", "d"]
)
def test_what_is_no_direct_conversation(wrong):
    """A second spelling of an id would be a second conversation of the same two people."""
    with pytest.raises(InvalidBody) as caught:
        parties_of(wrong)
    assert caught.value.field == "conversation_id"
