"""The command table against the wire protocol's, and the plugin API against its own list."""

import inspect
import typing

import pytest

import imserver.plugin
from imserver.commands import CommandTable
from imserver.config import Config
from imserver.connection import add_connection_commands
from imserver.plugin import ANYONE, USER, Plugin, role
from imserver.plugin_loader import load_plugins

#: ID and name of wire protocol, section 5: those that the server takes today.
COMMANDS = {
    1: "HEARTBEAT", 4: "HELLO",
    1001: "REGISTER", 1002: "LOGIN", 1003: "AUTH", 1004: "REFRESH", 1005: "LOGOUT", 1006: "GET_USER",
    1007: "UPDATE_PROFILE", 1008: "CHANGE_PASSWORD", 1009: "SEARCH_USERS", 1010: "LIST_DEVICES", 1011: "KICK_DEVICE",
    1012: "GET_PRESENCE", 1013: "WATCH_PRESENCE",
    2001: "SEND", 2002: "PULL", 2003: "SYNC", 2004: "MARK_READ", 2005: "RECALL", 2006: "EDIT",
    2007: "REACT", 2008: "TYPING", 2009: "SEARCH",
    2010: "DELETE_CONVERSATION", 2011: "SEND_BATCH", 2012: "RECEIPTS", 2013: "CONVERSATION_SETTINGS", 2014: "CHANGES",
    3001: "FRIEND_REQUEST", 3002: "FRIEND_ANSWER", 3003: "LIST_FRIENDS", 3004: "LIST_FRIEND_REQUESTS", 3005: "DELETE_FRIEND",
    3006: "BLOCK", 3007: "UNBLOCK", 3008: "LIST_BLOCKED", 3009: "SET_REMARK",
    4001: "CREATE_GROUP", 4002: "GET_GROUP", 4003: "UPDATE_GROUP", 4004: "DISMISS_GROUP", 4005: "ADD_MEMBERS",
    4006: "REMOVE_MEMBERS", 4007: "LEAVE_GROUP", 4008: "LIST_MEMBERS", 4009: "SET_ROLE", 4010: "MUTE_MEMBER",
    4011: "LIST_GROUPS", 4012: "JOIN_GROUP", 4013: "ANSWER_JOIN",
    5002: "PUSH_ACK", 5009: "NOTIFY", 5010: "SET_PUSH_TOKEN", 5011: "REMOVE_PUSH_TOKEN",
}  # fmt: skip
BEFORE_LOGIN = {1, 4, 1001, 1002, 1003, 1004}
OWNERS = {0: "connection", 1: "user", 2: "message", 3: "friend", 4: "group", 5: "push"}
#: Those whose owner is not the range's.
OWN_PLUGIN = {2009: "search"}


@pytest.fixture(scope="module")
def table():
    """The table of a server with the default plugins."""
    made = CommandTable()
    add_connection_commands(made)
    made.add(load_plugins(Config()).commands)
    return made


def test_the_table_is_that_of_the_protocol(table):
    """Each command with its ID and name, and none beside them."""
    assert {row.command_id: row.name for row in table} == COMMANDS


def test_who_may_call_what(table):
    """Before login only what leads to it; everything else needs a user."""
    assert {row.command_id for row in table if row.allow == ANYONE} == BEFORE_LOGIN
    assert {row.allow for row in table} == {ANYONE, USER, role("admin")}


def test_each_range_has_its_owner(table):
    """Users, messages and pushes are three plugins."""
    assert {row.owner for row in table} == {*OWNERS.values(), *OWN_PLUGIN.values()}
    for row in table:
        assert row.owner == OWN_PLUGIN.get(row.command_id, OWNERS[row.command_id // 1000])


def test_every_handler_says_what_it_does(table):
    """Its docstring goes into the reference; its class of request too."""
    for row in table:
        assert inspect.getdoc(row.handler), row
        assert row.request is None or inspect.getdoc(row.request), row


def test_all_is_all():
    """`__all__` of the plugin API has every public name of the module, and nothing that is not there."""
    module = imserver.plugin
    foreign = {
        "annotations",
        "TYPE_CHECKING",
        "Annotated",
        "Any",
        "ClassVar",
        "TypeVar",
        "Awaitable",
        "Callable",
        "Iterable",
        "Iterator",
        "Mapping",
        "Sequence",
        "contextmanager",
        "attrs",
        "trio",
        "CommandMark",
        "RouteMark",
    }  # fmt: skip - the last two: what `@command` and `@route` leave for imserver.commands
    public = {name for name in vars(module) if not name.startswith("_")} - foreign
    late = {"AppContext", "Context", "Conversation", "Draft", "Member", "Stored", "SessionInfo", "Session", "Caller"}
    assert public | late == set(module.__all__)
    assert len(module.__all__) == len(set(module.__all__))
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError):
        _ = module.NoSuchName


def test_hooks_are_documented():
    """Every hook of the base class says when it is called."""
    hooks = [
        name for name in vars(Plugin) if name.startswith(("on_", "before_", "after_")) and callable(getattr(Plugin, name))
    ]
    assert len(hooks) == 7
    for name in hooks:
        assert inspect.getdoc(getattr(Plugin, name)), name


def test_error_classes_of_the_api():
    """Every error that a client can be told is within a plugin's reach."""
    from imserver.errors import ImError

    for cls in ImError.__subclasses__():
        if cls.__module__ == "imserver.errors":
            assert cls.__name__ in imserver.plugin.__all__, cls


def test_wire_names_of_requests(table):
    """The fields of the requests are those of the wire protocol."""
    fields = {row.command_id: set(typing.get_type_hints(row.request, include_extras=True)) for row in table if row.request}
    expected = {
        1001: {"user_id", "password", "nickname"},
        1002: {"user_id", "password", "device_id", "platform", "compress", "deliver", "sync"},
        1003: {"token", "device_id", "platform", "compress", "deliver", "sync"},
        1004: {"refresh_token"},
        1005: {"all"},
        1006: {"user_ids"},
        1007: {"nickname", "avatar", "bio", "last_seen"},
        1008: {"old_password", "new_password"},
        1009: {"query", "limit", "cursor"},
        1011: {"session_id"},
        1012: {"user_ids"},
        1013: {"user_ids", "unwatch"},
        2001: {"to", "conversation_id", "client_id", "body", "type", "reply_to", "mentions", "expires_in_ms", "store"},
        2002: {"conversation_id", "after_seq", "before_seq", "limit"},
        2003: {"cursor", "limit"},
        2004: {"conversation_id", "seq"},
        2008: {"to", "conversation_id", "on"},
        2009: {"query", "limit", "cursor", "conversation_id", "sender", "since", "until"},
        2011: {"messages"},
        2014: {"conversation_id", "since_rev", "limit"},
        5002: {"conversation_id", "seq", "acks"},
    }
    for command_id, names in expected.items():
        assert {name for name in fields[command_id] if not name.startswith("_")} == names, command_id
