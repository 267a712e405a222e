"""How much anybody can make the audit log write down, and what is said of the rest."""

import json
from types import SimpleNamespace

import pytest
from helpers import FakeClock

from imserver_plugins.audit.plugin import AuditPlugin, Settings

#: What the router and the plugins emit when somebody fails at something, as often as anybody likes.
KINDS = ("authn_login_fail", "authn_login_fail_max", "authn_key_fail", "authn_token_reuse", "authz_fail",
         "input_validation_fail", "excess_rate_limit_exceeded", "excess_sessions_exceeded")  # fmt: skip


class Context:
    """As much of a context as the plugin needs; `entries` is what was written."""

    def __init__(self, per_minute):
        self.clock = FakeClock()
        self.settings = Settings(failures_per_minute=per_minute)
        self.config = SimpleNamespace(server=SimpleNamespace(name="im"))
        self.entries = []
        self.db = SimpleNamespace(write=lambda sql, params: self.entries.append((params[1], json.loads(params[2]))))

    def names(self):
        return [event for event, _ in self.entries]


@pytest.mark.parametrize("what", KINDS)
def test_each_kind_has_its_bound(what):
    """Beyond `failures_per_minute` of one kind no more is entered; another kind, and what cannot be forced, is."""
    plugin, ctx = AuditPlugin(), Context(3)
    for number in range(10):
        plugin.audit(ctx, what=what, user_id=f"u{number}")
    assert ctx.names() == [what] * 3
    other = next(kind for kind in KINDS if kind != what)
    plugin.audit(ctx, what=other, user_id="victim")
    plugin.audit(ctx, what="authz_admin", user_id="admin")
    assert ctx.names()[3:] == [other, "authz_admin"]


def test_how_many_there_were_is_said(monkeypatch):
    """When the minute is over, though nothing more comes; then there is room again."""
    plugin, ctx = AuditPlugin(), Context(3)
    for _ in range(10):
        plugin.audit(ctx, what="authz_fail")
    ctx.clock.advance(59)
    plugin._enter_suppressed(ctx)
    assert ctx.names() == ["authz_fail"] * 3
    ctx.clock.advance(2)
    plugin._enter_suppressed(ctx)
    assert ctx.entries[3:] == [("audit_suppressed", {"entries": 7, "of": "authz_fail"})]
    plugin._enter_suppressed(ctx)
    plugin.audit(ctx, what="authz_fail", user_id="u")
    assert ctx.names()[4:] == ["authz_fail"]


def test_the_stop_says_it_too():
    """The minute runs still."""
    plugin, ctx = AuditPlugin(), Context(1)
    for _ in range(3):
        plugin.audit(ctx, what="authz_fail")
    plugin._enter_suppressed(ctx, is_over=True)
    assert ctx.entries[-1] == ("audit_suppressed", {"entries": 2, "of": "authz_fail"})


def test_a_new_minute_has_room_of_its_own():
    """Also if the clock was set back, and before the background task has looked."""
    for step_s in (61, -3600):
        plugin, ctx = AuditPlugin(), Context(2)
        plugin.audit(ctx, what="authz_fail")
        plugin.audit(ctx, what="authz_fail")
        ctx.clock.advance(step_s)
        for _ in range(5):
            plugin.audit(ctx, what="authz_fail")
        assert ctx.names() == ["authz_fail"] * 4


def test_kinds_are_bounded():
    """What is made up beyond a number of kinds shares one bound: names cannot fill the memory, nor the log."""
    plugin, ctx = AuditPlugin(), Context(1)
    for number in range(1000):
        plugin.audit(ctx, what=f"excess_{number}")
    assert len(plugin._windows) <= 33
    assert len(ctx.entries) <= 33


def test_long_fields_are_cut():
    """An entry has a bound, whatever was in the request; what is short is there all the same."""
    plugin, ctx = AuditPlugin(), Context(5)
    plugin.audit(ctx, what="authz_fail", user_id="u", command="x" * 100_000, names=["name"] * 1000, count=7)
    ((event, fields),) = ctx.entries
    assert (event, fields["user_id"], fields["count"]) == ("authz_fail", "u", 7)
    assert fields["command"] == "x" * 512 + "…"
    assert fields["names"].startswith('["name","name"')
    plugin.audit(ctx, what="authz_fail", **{f"key{number}": "x" * 100 for number in range(100)})
    assert list(ctx.entries[1][1]) == ["left_out"]
