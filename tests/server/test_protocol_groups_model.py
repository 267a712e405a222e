"""A group over real sockets against a model that counts by brute force: roles, mutes, joining, who may write, and unread."""

import itertools

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from wire import SEND, SYNC

CREATE, GET, UPDATE, DISMISS, ADD, REMOVE, LEAVE, LIST_MEMBERS, SET_ROLE, MUTE, LIST, JOIN, ANSWER = range(4001, 4014)
ENABLED = {"plugins.enabled": '["user", "message", "group", "push"]', "limits.requests_per_second": 0}
COUNT = 4
RANKS = {"owner": 2, "admin": 1, "member": 0}

_numbers = itertools.count(1)
people = st.integers(0, COUNT - 1)


def machine_for(server):
    """The machine; its users stay, each example has a group of its own."""
    clients = [server.integrated(f"model-{number}") for number in range(COUNT)]

    class Machine(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.group_id = f"m{next(_numbers)}"
            self.roles = {0: "owner"}
            self.muted, self.all_muted, self.join_by = set(), False, "invite"
            self.requests = {}
            self.messages = [("system", None)]
            self.read = {0: 0}
            assert self.call(0, CREATE, name="M") == 0

        def call(self, who, command, **fields):
            self.answer = clients[who].call(command, group_id=self.group_id, **fields)
            return self.answer["code"]

        def note(self):
            """A message of the server."""
            self.messages.append(("system", None))

        def enter(self, who):
            self.roles[who] = "member"
            self.read[who] = len(self.messages)
            self.requests.pop(who, None)
            self.note()

        def go(self, who):
            for known in (self.roles, self.read):
                del known[who]
            self.muted.discard(who)

        def is_above(self, who, other):
            return RANKS[self.roles[who]] > RANKS[self.roles[other]]

        def is_in_charge(self, who):
            return self.roles.get(who, "member") != "member"

        @rule(who=people, other=people)
        def add(self, who, other):
            code = self.call(who, ADD, user_ids=[clients[other].user])
            may = who in self.roles and (self.join_by != "approval" or self.is_in_charge(who))
            assert code == (0 if may else 403)
            if may:
                assert bool(self.answer["added"]) == (other not in self.roles)
                if other not in self.roles:
                    self.enter(other)

        @rule(who=people, other=people)
        def remove(self, who, other):
            code = self.call(who, REMOVE, user_ids=[clients[other].user])
            may = self.is_in_charge(who) and (other not in self.roles or self.is_above(who, other))
            assert code == (0 if may else 403)
            if may and other in self.roles:
                self.go(other)
                self.note()

        @rule(who=people)
        def leave(self, who):
            code = self.call(who, LEAVE)
            assert code == {None: 403, "owner": 409}.get(self.roles.get(who), 0)
            if code == 0:
                self.go(who)
                self.note()

        @rule(who=people, other=people, role=st.sampled_from(["owner", "admin", "member"]))
        def set_role(self, who, other, role):
            code = self.call(who, SET_ROLE, user_id=clients[other].user, role=role)
            if self.roles.get(who) != "owner":
                assert code == 403
            elif other not in self.roles:
                assert code == 404
            elif other == who:
                assert code == (0 if role == "owner" else 409)
            else:
                assert code == 0
                if self.roles[other] != role:
                    if role == "owner":
                        self.roles[who] = "admin"
                    self.roles[other] = role
                    self.note()

        @rule(who=people, other=people, on=st.booleans())
        def mute(self, who, other, on):
            code = self.call(who, MUTE, user_id=clients[other].user, duration_ms=3_600_000 if on else 0)
            if not self.is_in_charge(who):
                assert code == 403
            elif other not in self.roles:
                assert code == 404
            else:
                assert code == (0 if self.is_above(who, other) else 403)
                if code == 0 and (on or other in self.muted):
                    (self.muted.add if on else self.muted.discard)(other)
                    self.note()

        @rule(who=people, muted=st.booleans(), join_by=st.sampled_from(["open", "approval", "invite"]))
        def update(self, who, muted, join_by):
            code = self.call(who, UPDATE, muted=muted, join=join_by)
            assert code == (0 if self.is_in_charge(who) else 403)
            if code == 0 and (muted, join_by) != (self.all_muted, self.join_by):
                self.all_muted, self.join_by = muted, join_by
                self.note()

        @rule(who=people)
        def join(self, who):
            code = self.call(who, JOIN)
            if who in self.roles:
                assert code == 409
            else:
                assert code == (403 if self.join_by == "invite" else 0)
                if self.join_by == "open":
                    self.enter(who)
                elif self.join_by == "approval":
                    assert self.requests.setdefault(who, self.answer["request_id"]) == self.answer["request_id"]

        @rule(who=people, other=people, accept=st.booleans())
        def answer_join(self, who, other, accept):
            code = self.call(who, ANSWER, request_id=self.requests.get(other, "none"), accept=accept)
            if other not in self.requests:
                assert code == 404
            elif not self.is_in_charge(who):
                assert code == 403
            else:
                assert code == 0
                if accept:
                    self.enter(other)
                else:
                    del self.requests[other]

        @rule(who=people)
        def say(self, who):
            code = clients[who].call(SEND, conversation_id=f"g:{self.group_id}", client_id=f"c-{next(_numbers)}", body="x")[
                "code"
            ]
            may = self.is_in_charge(who) or (who in self.roles and not self.all_muted and who not in self.muted)
            assert code == (0 if may else 403)
            if may:
                self.messages.append(("text", who))
                self.read[who] = len(self.messages)

        @invariant()
        def all_see_the_same(self):
            listed = clients[next(iter(self.roles))].ok(LIST_MEMBERS, group_id=self.group_id)["members"]
            assert {member["user_id"]: member["role"] for member in listed} == {
                clients[who].user: role for who, role in self.roles.items()
            }
            assert {member["user_id"] for member in listed if "muted_until" in member} == {
                clients[who].user for who in self.muted
            }
            for who, client in enumerate(clients):
                rows = client.ok(SYNC, limit=500)["conversations"]
                unread = [row["unread"] for row in rows if row["conversation_id"] == f"g:{self.group_id}"]
                if who in self.roles:
                    assert unread == [sum(kind == "text" for kind, _ in self.messages[self.read[who] :])]
                else:
                    assert unread == []

        def teardown(self):
            owner = next(who for who, role in self.roles.items() if role == "owner")
            assert self.call(owner, DISMISS) == 0
            for client in clients:
                client.drain(0.0)

    return Machine


def test_a_group_agrees_with_its_model(make_server):
    """Whatever four people do with it."""
    server = make_server(ENABLED)
    options = settings(max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(machine_for(server), settings=options)
