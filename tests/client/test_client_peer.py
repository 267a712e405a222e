"""The client against a scripted peer on real loopback sockets: faults of the network and the server, one by one."""

import json
from contextlib import asynccontextmanager

import pytest
import scripted_peer as wire
import trio
from scripted_peer import Drop, Refuse, Silence, running_peer

from imserver.client import (
    AuthenticationLost,
    ClientClosed,
    Conflict,
    ConnectionLost,
    Draft,
    EventsLost,
    FrameTooLarge,
    MessageChanged,
    Notify,
    RawPush,
    Read,
    RequestTimeout,
    ServerError,
    ServerFault,
    SessionKicked,
    SessionReplaced,
    State,
    Unauthenticated,
    Unavailable,
    open_client,
)


@pytest.fixture
async def peer():
    """A peer on a free port."""
    async with running_peer() as peer:
        yield peer


def quick(peer, **options):
    """A client that reconnects at once."""
    return open_client(peer.address, **{"backoff_min_s": 0.001, "backoff_max_s": 0.002, **options})


@asynccontextmanager
async def bob_on(peer, **options):
    """A client that is logged in as bob."""
    async with quick(peer, **options) as client:
        await client.login("bob", "secret", device_id="laptop")
        yield client


async def take(client, count):
    """The bodies of the next messages."""
    bodies = []
    async for message in client.messages():
        bodies.append(message.body)
        if len(bodies) == count:
            client.ack(message)
            return bodies


# ------------------------------------------------------------------ the plain way


async def test_login_send_receive_confirm(peer):
    """The first conversation: register, log in, send, receive, and the confirmation reaches the server."""
    async with quick(peer) as client:
        await client.register("bob", "secret")
        credentials = await client.login("bob", "secret", device_id="laptop")
        assert (credentials.user_id, credentials.token) == ("bob", "token-1")
        assert "token-1" not in repr(credentials)
        sent = await client.send("alice", "hello")
        assert (sent.conversation_id, sent.seq, sent.duplicate) == ("d:alice:bob", 1, False)
        await peer.say("hi")
        assert await take(client, 1) == ["hi"]
        await peer.wait_for(lambda: peer.delivered["laptop", "d:alice:bob"] == 2)
        await client.send("alice", "bye")
    assert peer.delivered["laptop", "d:alice:bob"] == 3, "one's own last message, confirmed at the end"


async def test_refusal_is_the_error_of_its_code(peer):
    """An answer with a code raises the class of the code, with every field of the answer."""

    async def taken(link, body):
        raise Refuse(409, "conflict", field="user_id")

    peer.on[wire.REGISTER] = taken
    async with quick(peer) as client:
        with pytest.raises(Conflict) as caught:
            await client.register("bob", "secret")
    assert (caught.value.code, caught.value.error, caught.value.field) == (409, "conflict", "user_id")
    assert caught.value.command == wire.REGISTER


async def test_send_before_login_is_refused_here(peer):
    """Without a user there is nothing to send as; no connection is made for it."""
    async with quick(peer) as client:
        with pytest.raises(Unauthenticated):
            await client.send("alice", "hello")
    assert peer.accepted == 0


async def test_batch_gives_each_message_its_result(peer):
    """SEND_BATCH: an accepted and a refused message side by side."""

    async def half(link, body):
        first, second = body["messages"]
        assert (first["to"], second["conversation_id"]) == ("alice", "g:x")
        return {
            "results": [{"code": 0, **peer.send_answer(link, first)}, {"code": 403, "error": "forbidden", "message": ""}]
        }

    peer.on[wire.SEND_BATCH] = half
    async with bob_on(peer) as client:
        accepted, refused = await client.send_batch([Draft("alice", "1"), Draft("g:x", "2")])
    assert accepted.seq == 1
    assert isinstance(refused, ServerError)
    assert refused.code == 403


async def test_request_over_the_servers_limit_is_not_sent(peer):
    """HELLO's `max_frame` is heeded: resending what the server cannot take would cost every connection."""
    async with bob_on(peer) as client:
        await peer.wait_for(lambda: peer.requests(wire.HELLO))
        await client.request(1010)  # by its answer HELLO's is in
        with pytest.raises(FrameTooLarge):
            await client.send("alice", "x" * 70_000)
        assert (await client.send("alice", "short")).seq == 1
    assert peer.accepted == 1


# ------------------------------------------------------------------ sending through faults


async def test_unanswered_send_is_sent_again_with_the_same_client_id(peer):
    """Stored, but the answer was lost with the connection: the second time says duplicate, and nothing is doubled."""

    async def store_then_drop(link, body):
        peer.send_answer(link, body)
        del peer.on[wire.SEND]
        raise Drop

    async with bob_on(peer) as client:
        peer.on[wire.SEND] = store_then_drop
        sent = await client.send("alice", "once")
    assert sent.duplicate
    first, second = peer.requests(wire.SEND)
    assert first["client_id"] == second["client_id"] == sent.client_id
    assert [m["body"] for m in peer.log["d:alice:bob"]] == ["once"]
    assert peer.accepted == 2
    [auth] = peer.requests(wire.AUTH)
    assert (auth["token"], auth["device_id"]) == ("token-1", "laptop")


async def test_later_send_does_not_overtake_one_that_is_resent(peer):
    """Both names of a conversation are one line; other conversations do not wait in it."""
    drops = 2

    async def drop_first(link, body):
        nonlocal drops
        if body["body"] == "0" and drops:
            drops -= 1
            raise Drop
        return peer.send_answer(link, body)

    async with bob_on(peer) as client:
        peer.on[wire.SEND] = drop_first
        async with trio.open_nursery() as nursery:
            for n in range(8):
                nursery.start_soon(client.send, "alice" if n % 2 else "d:alice:bob", str(n))
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(client.send, "carol", "other")
    assert [m["body"] for m in peer.log["d:alice:bob"]] == [str(n) for n in range(8)]
    assert [m["body"] for m in peer.log["d:bob:carol"]] == ["other"]


async def test_busy_server_is_asked_again_after_the_time_it_names(peer):
    """503 with retry_after_ms: the send waits and goes through, before a later one."""
    refusals = 2

    async def busy(link, body):
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise Refuse(503, "unavailable", retry_after_ms=1)
        return peer.send_answer(link, body)

    async with bob_on(peer) as client:
        peer.on[wire.SEND] = busy
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, "alice", "first")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(client.send, "alice", "second")
    assert [m["body"] for m in peer.log["d:alice:bob"]] == ["first", "second"]
    assert [body["body"] for body in peer.requests(wire.SEND)] == ["first"] * 3 + ["second"]


async def test_refusal_that_outlasts_the_deadline_is_raised_as_it_is(peer):
    """A wait beyond the deadline ends at once with the server's own words."""

    async def busy(link, body):
        raise Refuse(503, "unavailable", retry_after_ms=3_600_000)

    async with bob_on(peer) as client:
        peer.on[wire.SEND] = busy
        with pytest.raises(Unavailable):
            await client.send("alice", "hello")
    assert len(peer.requests(wire.SEND)) == 1


async def test_silence_is_a_timeout_and_the_connection_stays(peer):
    """No answer to one request before its deadline: RequestTimeout; the next request works on the same connection."""

    async def silent(link, body):
        raise Silence

    async with bob_on(peer) as client:
        peer.on[wire.SEND] = silent
        with pytest.raises(RequestTimeout):
            await client.send("alice", "hello", timeout_s=0.05)
        del peer.on[wire.SEND]
        assert (await client.send("alice", "again")).seq == 1
    assert peer.accepted == 1


async def test_lost_request_that_cannot_be_repeated_is_unknown(peer):
    """REGISTER may have been carried out: the caller decides. A repeatable request is asked again."""
    drops = {wire.REGISTER: 1, wire.SYNC: 1}

    def dropping(command):
        async def handler(link, body):
            if drops[command]:
                drops[command] -= 1
                raise Drop
            return peer.answer(link, command, body)

        return handler

    peer.on = {command: dropping(command) for command in drops}
    async with quick(peer) as client:
        with pytest.raises(ConnectionLost):
            await client.register("bob", "secret")
        await client.login("bob", "secret")
        assert (await client.sync()).conversations == ()
    assert (len(peer.requests(wire.REGISTER)), len(peer.requests(wire.SYNC))) == (1, 2)


async def test_cancelled_send_leaves_the_line_to_the_next(peer):
    """Cancelling a send that waits for its answer harms neither the connection nor the order."""

    async def silent(link, body):
        raise Silence

    async with bob_on(peer) as client:
        peer.on[wire.SEND] = silent
        with trio.move_on_after(10) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, "alice", "cancelled")
                await peer.wait_for(lambda: peer.requests(wire.SEND))
                scope.cancel()
        del peer.on[wire.SEND]
        assert (await client.send("alice", "next")).seq == 1
        assert client._outgoing._lines._lines == {}
        assert client._delivery.sending == set()


# ------------------------------------------------------------------ receiving through faults


async def test_gap_is_repaired_by_pull(peer):
    """Pushes that never came are pulled, and come before the one that showed the gap."""
    async with bob_on(peer) as client:
        await peer.say("1")
        await peer.say("2", push=False)
        await peer.say("3", push=False)
        await peer.say("4")
        assert await take(client, 4) == ["1", "2", "3", "4"]
    assert peer.requests(wire.PULL)[0]["after_seq"] == 1


async def test_what_came_while_away_is_delivered_after_the_reconnect(peer):
    """A dropped connection: the cursor goes with AUTH, missed messages come before later ones, none twice."""
    async with bob_on(peer) as client:
        await peer.say("1")
        assert await take(client, 1) == ["1"]
        cursor = client.state.cursor
        for link in list(peer.links):
            await link.stream.aclose()
        await peer.say("2", push=False)
        await peer.wait_for(lambda: peer.requests(wire.AUTH))
        await peer.say("3")
        assert await take(client, 2) == ["2", "3"]
        assert peer.requests(wire.AUTH)[0]["sync"] == cursor == "0"


async def test_long_absence_is_caught_up_page_by_page(peer):
    """More conversations and more messages than fit one page, with repeats on top."""
    names = [f"u{n:03}" for n in range(20)]
    for name in names:
        for n in range(30):
            await peer.say(n, from_=name, push=False)

    async def small_pages(link, body):
        return peer.sync_answer(link, body.get("cursor"), 3)

    async def small_pulls(link, body):
        return peer.answer(link, wire.PULL, {**body, "limit": 7})

    peer.on = {wire.SYNC: small_pages, wire.PULL: small_pulls}
    async with bob_on(peer) as client:
        got = {}
        async for message in client.messages():
            got.setdefault(message.from_, []).append(message.body)
            if sum(map(len, got.values())) == 600:
                break
        assert got == {name: list(range(30)) for name in names}


async def test_pushes_between_login_and_sync_are_not_lost_or_doubled(peer):
    """A message may come in the login's snapshot and as a push: it is delivered once."""

    async def login(link, body):
        answer = peer.answer(link, wire.LOGIN, body)
        await peer.push(wire.MESSAGE, peer.log["d:alice:bob"][0])  # ahead of the answer
        return answer

    peer.on[wire.LOGIN] = login
    await peer.say("1", push=False)
    async with bob_on(peer) as client:
        await peer.say("2")
        assert await take(client, 2) == ["1", "2"]


async def test_own_messages_do_not_come_back_but_other_devices_do(peer):
    """Also where a pull brings them all."""
    async with bob_on(peer) as client:
        await client.send("alice", "mine", client_id="chosen-by-me")
        peer.store("bob", "d:alice:bob", "from my phone", "phone.1")
        await peer.say("hers")
        assert await take(client, 2) == ["from my phone", "hers"]


async def test_application_that_does_not_read_can_still_send(peer):
    """A thousand unread pushes block neither answers nor memory; all come when it reads."""
    async with bob_on(peer) as client:
        for n in range(1500):
            await peer.say(n)
        assert (await client.send("alice", "mine")).seq == 1501
        assert len(client._delivery._ready) <= 1024
        assert await take(client, 1500) == list(range(1500))


async def test_client_process_that_restarts_goes_on_where_it_stopped(peer):
    """With the state persisted after `ack`: each message once over both runs, own ones of the first run never."""
    async with bob_on(peer) as client:
        await client.send("alice", "mine")
        for n in range(3):
            await peer.say(n)
        first = await take(client, 2)
        saved = json.dumps(client.state.to_dict())
    peer.delivered.clear()  # it is not the server who remembers here
    await peer.say(3, push=False)
    async with bob_on(peer, state=State.from_dict(json.loads(saved))) as client:
        assert first + await take(client, 2) == [0, 1, 2, 3]


async def test_message_is_not_taken_when_the_block_fails(peer):
    """An exception in the loop's body: not confirmed, not in the state; the block's own exception comes out bare."""
    state = State()
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  # what comes out of the block is the point
        async with bob_on(peer, state=state) as client:
            await peer.say("1")
            async for _ in client.messages():
                raise ZeroDivisionError
    assert peer.delivered["laptop", "d:alice:bob"] == 0
    assert state.positions["d:alice:bob"].taken_seq == 0


async def test_refused_history_is_passed(peer):
    """No longer a member: the conversation is left behind, the others go on."""

    async def forbidden(link, body):
        if body["conversation_id"] == "d:alice:bob":
            raise Refuse(403, "forbidden")
        return peer.answer(link, wire.PULL, body)

    peer.on[wire.PULL] = forbidden
    await peer.say("not for bob any more", push=False)
    await peer.say("still here", from_="carol", push=False)
    async with bob_on(peer) as client:
        assert await take(client, 1) == ["still here"]
        assert client.state.positions["d:alice:bob"].taken_seq == 1
    assert len([body for body in peer.requests(wire.PULL) if body["conversation_id"] == "d:alice:bob"]) == 1


async def test_forgotten_cursor_means_looking_through_everything(peer):
    """400 on the cursor: asked again without one, and nothing is delivered twice."""
    await peer.say("1", push=False)
    async with bob_on(peer) as client:
        assert await take(client, 1) == ["1"]

        async def strict(link, body):
            if body["sync"]:
                raise Refuse(400, "bad_request", field="sync")
            return peer.answer(link, wire.AUTH, body)

        peer.on[wire.AUTH] = strict
        for link in list(peer.links):
            await link.stream.aclose()
        await peer.say("2", push=False)
        assert await take(client, 1) == ["2"]


async def test_one_task_at_a_time_reads(peer):
    """Two tasks in `messages()` would each get half: refused."""
    async with bob_on(peer) as client, trio.open_nursery() as nursery:
        nursery.start_soon(anext, client.messages())
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await anext(client.messages())
        nursery.cancel_scope.cancel()


# ------------------------------------------------------------------ events


async def test_pushes_become_events(peer):
    """Known pushes are typed, unknown ones raw; a malformed one costs the connection, not the client."""
    async with quick(peer) as client:
        events = client.events()
        await client.login("bob", "secret")
        await peer.push(5004, {"conversation_id": "d:alice:bob", "user_id": "alice", "seq": 3})
        await peer.push(5009, {"topic": "news", "body": {"a": 1}})
        await peer.push(3, {"code": 404, "error": "unknown_command", "message": "m", "command": 7000})
        await peer.push(5999, {"x": 1})
        got = [await anext(events) for _ in range(4)]
        assert got == [
            Read("d:alice:bob", "alice", 3),
            Notify("news", {"a": 1}),
            ServerFault(404, "unknown_command", "m", 7000),
            RawPush(5999, {"x": 1}),
        ]
        await peer.push(5004, {"conversation_id": 7})
        await peer.wait_for(lambda: len(peer.requests(wire.AUTH)) == 1)
        await client.request(1010)
        await peer.push(5999, {"x": 2})
        assert await anext(events) == RawPush(5999, {"x": 2})


async def test_message_that_grows_costs_no_connection_and_is_no_message_yet(peer):
    """Its beginning, its chunks and its end without a result are events as they came; the whole comes as a message, once."""
    grows = {"conversation_id": "d:alice:bob", "client_id": "s", "from": "alice"}
    async with quick(peer) as client:
        events = client.events()
        await client.login("bob", "secret")
        await peer.push(wire.MESSAGE, {**grows, "message_id": "1", "type": "text", "body": "", "streaming": True})
        chunks = [{**grows, "change": "appended", "offset": n, "text": "x"} for n in range(2)]
        for body in (*chunks, {**grows, "change": "aborted"}):
            await peer.push(wire.MESSAGE_CHANGED, body)
        got = [await anext(events) for _ in range(4)]
        assert all(isinstance(event, RawPush) for event in got)
        assert [event.body.get("change") for event in got] == [None, "appended", "appended", "aborted"]
        await peer.say("xx")
        assert await take(client, 1) == ["xx"]
        assert peer.accepted == 1, "the connection was kept"


async def test_confirmations_over_the_servers_limit_go_in_parts(peer):
    """PUSH_ACK of very many conversations, and a server that takes little: all of them are confirmed."""

    async def small(_link, _body):
        return {"server": "peer", "version": 1, "max_frame": 1024, "heartbeat_ms": 30_000, "time": 1}

    peer.on[wire.HELLO] = small
    names = [f"writer-{n:060}" for n in range(40)]
    async with bob_on(peer) as client:
        for name in names:
            await peer.say("hi", from_=name)
        await client.request(1010)  # by its answer HELLO's is in
        await take(client, len(names))
        await peer.wait_for(lambda: len(peer.delivered) >= len(names) and all(peer.delivered.values()))
        assert {name for _, name in peer.delivered} == {f"d:bob:{name}" for name in names}
        assert len(peer.requests(wire.PUSH_ACK)) >= 4


async def test_changes_live_and_missed_are_events_once(peer):
    """A recall while connected comes as push, one while away by CHANGES; new messages are no changes."""
    async with quick(peer) as client:
        events = client.events()
        await client.login("bob", "secret")
        await peer.say("1")
        await peer.say("2")
        assert await take(client, 2) == ["1", "2"]
        await peer.push(wire.MESSAGE_CHANGED, peer.change("d:alice:bob", 1, edited_at=5, body="one"))
        live = await anext(events)
        assert isinstance(live, MessageChanged)
        assert (live.seq, live.change, live.state["body"]) == (1, "edited", "one")
        await client.send("alice", "mine")
        for link in list(peer.links):
            await link.stream.aclose()
        peer.change("d:alice:bob", 2, recalled=True, body=None)
        await peer.say("4", push=False)
        missed = await anext(events)
        assert (missed.seq, missed.change) == (2, "recalled")
        assert await take(client, 1) == ["4"]
        await peer.push(5999, {})
        assert await anext(events) == RawPush(5999, {}), "nothing else was shown"
        assert client.state.positions["d:alice:bob"].rev == peer.rev["d:alice:bob"]


async def test_events_without_room_are_counted_and_changes_are_fetched(peer):
    """Over the bound: notices are counted as lost, the recall among them is not."""
    async with quick(peer) as client:
        events = client.events()
        await client.login("bob", "secret")
        await peer.say("1")
        assert await take(client, 1) == ["1"]
        for n in range(1030):
            await peer.push(5999, {"n": n})
        await peer.push(wire.MESSAGE_CHANGED, peer.change("d:alice:bob", 1, recalled=True))
        await client.request(1010)
        got = [await anext(events) for _ in range(1026)]
        assert [event.body["n"] for event in got if isinstance(event, RawPush)] == list(range(1024))
        assert {event.change for event in got if isinstance(event, MessageChanged)} == {"recalled"}
        assert [event.count for event in got if isinstance(event, EventsLost)] == [6]


# ------------------------------------------------------------------ the session


@pytest.mark.parametrize(("error", "kind"), [("replaced", SessionReplaced), ("kicked", SessionKicked)])
async def test_session_that_the_server_ended_ends_the_block(peer, error, kind):
    """GOAWAY replaced, kicked: no reconnect, the block is cancelled, one clear exception, outside of any group."""
    with pytest.raises(kind) as caught:  # noqa: PT012  # what comes out of the block is the point
        async with bob_on(peer) as client:
            await peer.push(wire.GOAWAY, {"code": 401, "error": error, "message": "because"})
            await trio.sleep_forever()
    assert (caught.value.error, caught.value.message) == (error, "because")
    assert peer.accepted == 1
    with pytest.raises(kind):
        await client.send("alice", "too late")


async def test_draining_server_is_left_and_found_again_after_the_time_it_names(peer):
    """GOAWAY draining: answers that are due are awaited, then a new connection, not before retry_after_ms."""
    delays = []

    def no_jitter(low, high):
        return 0.0

    async with bob_on(peer, uniform=no_jitter) as client:
        sleep = trio.sleep

        async def spy(seconds):
            delays.append(seconds)
            await sleep(0)

        async def late(link, body):
            await link.send(wire.GOAWAY, {"code": 503, "error": "draining", "message": "", "retry_after_ms": 40})
            del peer.on[wire.SEND]
            return peer.send_answer(link, body)

        peer.on[wire.SEND] = late
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("imserver.client.supervisor.trio.sleep", spy)
            assert not (await client.send("alice", "while draining")).duplicate
            for link in list(peer.links):
                await link.stream.aclose()
            assert (await client.send("alice", "after")).seq == 2
    assert delays == [0.04]
    assert peer.accepted == 2


async def test_expired_token_is_refreshed(peer):
    """GOAWAY token_expired: REFRESH, then AUTH with the new token, and the application notices nothing."""
    async with bob_on(peer) as client:
        await peer.push(wire.GOAWAY, {"code": 401, "error": "token_expired", "message": ""})
        for link in list(peer.links):
            await link.stream.aclose()
        await peer.wait_for(lambda: peer.requests(wire.AUTH))
        assert (await client.send("alice", "still me")).seq == 1
        assert client.credentials.refresh_token == "refresh-1+"
    assert [command for command, _ in peer.seen if command in (wire.REFRESH, wire.AUTH)] == [wire.REFRESH, wire.AUTH]
    assert peer.requests(wire.AUTH)[0]["token"] == "token-1+"


async def test_token_refused_at_reconnect_is_refreshed(peer):
    """401 to AUTH: REFRESH, AUTH again on the same connection."""
    async with bob_on(peer) as client:
        peer.token = "another"
        for link in list(peer.links):
            await link.stream.aclose()
        assert (await client.send("alice", "still me")).seq == 1
    assert [body["token"] for body in peer.requests(wire.AUTH)] == ["token-1", "another+"]


async def test_token_that_cannot_be_refreshed_ends_the_client(peer):
    """Both tokens dead: AuthenticationLost, not a loop."""
    with pytest.raises(AuthenticationLost):  # noqa: PT012  # what comes out of the block is the point
        async with bob_on(peer):
            peer.token = peer.refresh_token = "another"
            for link in list(peer.links):
                await link.stream.aclose()
            await trio.sleep_forever()
    assert len(peer.requests(wire.REFRESH)) == 1


async def test_integrators_token_is_renewed_by_the_application(peer):
    """`auth` with `renew_token`: asked when the token is refused."""

    async def renew():
        return peer.token

    async with quick(peer) as client:
        with pytest.raises(Unauthenticated):
            await client.auth("wrong")
        await client.auth("token-1", renew_token=renew)
        peer.token = "jwt-2"
        for link in list(peer.links):
            await link.stream.aclose()
        assert (await client.send("alice", "still me")).seq == 1
        assert client.credentials.token == "jwt-2"
    assert peer.requests(wire.REFRESH) == []


async def test_busy_login_after_reconnect_is_tried_again(peer):
    """503 to AUTH: another connection later, no end of the session."""
    refusals = 2

    async def busy(link, body):
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise Refuse(503, "unavailable", retry_after_ms=1)
        return peer.answer(link, wire.AUTH, body)

    peer.on[wire.AUTH] = busy
    async with bob_on(peer) as client:
        for link in list(peer.links):
            await link.stream.aclose()
        assert (await client.send("alice", "at last")).seq == 1
    assert len(peer.requests(wire.AUTH)) == 3


async def test_wrong_password_leaves_the_client_usable(peer):
    """401 to LOGIN is the caller's; the next login works."""

    async def wrong(link, body):
        raise Refuse(401, "unauthenticated")

    async with quick(peer) as client:
        peer.on[wire.LOGIN] = wrong
        with pytest.raises(Unauthenticated):
            await client.login("bob", "wrong")
        del peer.on[wire.LOGIN]
        await client.login("bob", "secret")
        assert client.is_connected


async def test_logout_ends_the_iteration_and_the_connection(peer):
    """After LOGOUT nothing reconnects; the client can log in again."""
    async with bob_on(peer) as client:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def read():
                assert [message async for message in client.messages()] == []

            await trio.testing.wait_all_tasks_blocked()
            await client.logout()
        await peer.wait_for(lambda: not peer.links)
        assert client.credentials is None
        assert peer.accepted == 1
        await client.login("bob", "secret")
        assert (await client.send("alice", "back")).seq == 1


async def test_state_of_another_user_is_refused(peer):
    """A state belongs to one user: by password it is refused here, by token when the server has said who it is."""
    async with quick(peer, state=State(user_id="alice")) as client:
        with pytest.raises(ValueError, match="alice"):
            await client.login("bob", "secret")
    with pytest.raises(AuthenticationLost, match="wrong_user"):
        async with quick(peer, state=State(user_id="alice")) as client:
            await client.auth("token-1")


async def test_use_after_the_block_is_an_error(peer):
    """A closed client says so at once."""
    async with bob_on(peer) as client:
        pass
    with pytest.raises(ClientClosed):
        await client.send("alice", "too late")
    assert peer.links == [] or await peer.wait_for(lambda: not peer.links) is None


async def test_exception_group_of_the_application_stays_its_own():
    """Only this client's group is undone: a nursery of the application's raises what it raised."""
    with pytest.raises(ExceptionGroup) as caught:
        async with open_client("127.0.0.1:9"), trio.open_nursery() as nursery:
            nursery.start_soon(anext, iter(()))  # a TypeError inside
    assert [type(error) for error in caught.value.exceptions] == [TypeError]


async def test_server_that_is_not_there_is_a_timeout_that_says_why():
    """Nobody listens: tried until the deadline, then the reason."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    async with open_client(f"127.0.0.1:{port}", backoff_max_s=0.01) as client:
        with pytest.raises(RequestTimeout, match="cannot connect"):
            await client.login("bob", "secret", timeout_s=0.1)


@pytest.mark.parametrize("address", ["", "host", "host:", ":9000", "host:0", "host:70000", "udp://host:1", "host:x"])
async def test_address_that_is_none_is_refused(address):
    """A clear error before anything is tried."""
    with pytest.raises(ValueError, match=r"address|scheme"):
        async with open_client(address):
            pass
