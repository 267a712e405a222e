"""Accounts and tokens: REGISTER to SEARCH_USERS, and the integrator's own tokens."""

import base64
import contextlib
import json
import time

import pytest
from process import PASSWORD
from wire import (
    AUTH,
    CHANGE_PASSWORD,
    GET_USER,
    HEARTBEAT,
    LIST_DEVICES,
    LOGIN,
    LOGOUT,
    REFRESH,
    REGISTER,
    SEARCH_USERS,
    SEND,
    UPDATE_PROFILE,
    ClosedByServer,
    direct,
    sign,
)

OTHER_PASSWORD = "another horse 9 staple"


def rejected(server, token):
    """The token is good for nothing any more."""
    with server.client() as client:
        return client.call(AUTH, token=token)["code"] == 401


class TestRegister:
    """REGISTER."""

    def test_register_and_log_in(self, server):
        """The answer is the id; the password then opens a session with both tokens."""
        with server.client() as client:
            name = "Register_me-1.x@example"
            assert client.ok(REGISTER, user_id=name, password=PASSWORD, nickname="Réné")["user_id"] == name
            account = client.login(name, PASSWORD, platform="tests")
        assert account["user_id"] == name
        assert account["heartbeat_ms"] == 30_000
        now_ms = time.time() * 1000
        assert abs(account["server_time"] - now_ms) < 3_600_000
        assert account["expires_at"] > now_ms + 3_600_000
        assert account["token"] != account["refresh_token"]
        assert account["session_id"]
        assert "sync" not in account

    def test_ids_are_taken_once(self, server):
        """409 for a taken id, also with another password; the first account stays as it is."""
        name = server.register()
        with server.client() as client:
            client.fails(409, REGISTER, user_id=name, password=OTHER_PASSWORD)
            client.fails(401, LOGIN, user_id=name, password=OTHER_PASSWORD)
            client.login(name, PASSWORD)

    def test_ids_tell_upper_from_lower_case(self, server):
        """Ids are compared byte by byte."""
        name = server.register()
        server.register(name.upper())

    def test_two_at_the_same_moment(self, server):
        """Of two registrations of one id in flight, one wins and one gets 409."""
        with server.client() as one, server.client() as two:
            rids = [(client, client.post(REGISTER, user_id="crossing", password=PASSWORD)) for client in (one, two)]
            codes = sorted(client.answer(rid)["code"] for client, rid in rids)
        assert codes == [0, 409]

    def test_easy_passwords_are_refused(self, server):
        """A password that every guesser tries first is 400."""
        with server.client() as client:
            for password in ("12345678", "password", "short"):
                assert client.fails(400, REGISTER, user_id="easy", password=password)["field"] == "password"

    def test_closed_registration(self, make_server):
        """With `auth.registration=closed` nobody registers: 403."""
        server = make_server({"auth.registration": "closed"})
        with server.client() as client:
            client.fails(403, REGISTER, user_id="someone", password=PASSWORD)

    def test_registrations_per_hour(self, make_server):
        """Beyond the number of an address: 429 with a time to wait."""
        server = make_server({"limits.registrations_per_hour": 2, "limits.exempt_addresses": "[]"})
        with server.client() as client:
            codes = [client.call(REGISTER, user_id=f"r{n}", password=PASSWORD) for n in range(3)]
        assert [answer["code"] for answer in codes] == [0, 0, 429]
        assert codes[2]["error"] == "rate_limited"
        assert codes[2]["retry_after_ms"] > 0


class TestLogin:
    """LOGIN and AUTH."""

    def test_wrong_and_unknown_look_alike(self, server):
        """A wrong password and an unknown user get the same answer, but for the `rid`."""
        name = server.register()
        with server.client() as client:
            wrong = client.fails(401, LOGIN, user_id=name, password=OTHER_PASSWORD)
            unknown = client.fails(401, LOGIN, user_id="nobody-of-this-name", password=OTHER_PASSWORD)
            client.login(name, PASSWORD)
        assert wrong.pop("rid") != unknown.pop("rid")
        assert wrong == unknown
        assert wrong["error"] == "unauthenticated"

    def test_guessing_is_slowed_down(self, server):
        """Many wrong passwords for one account are answered by 429 with a time to wait; others are not concerned."""
        name, other = server.register(), server.register()
        with server.client() as client:
            answers = []
            for n in range(60):
                answers.append(client.fails((401, 429), LOGIN, user_id=name, password=f"{OTHER_PASSWORD} {n}"))
                if answers[-1]["code"] == 429:
                    break
            assert answers[-1]["code"] == 429
            assert answers[-1]["retry_after_ms"] > 0
            client.login(other, PASSWORD)

    def test_auth_by_token(self, server):
        """The token of LOGIN binds another connection to the same user, and gives no new tokens."""
        alice = server.login()
        with server.client() as client:
            answer = client.ok(AUTH, token=alice.token, platform="tests")
            assert answer["user_id"] == alice.user
            assert answer["session_id"]
            assert answer["heartbeat_ms"] == 30_000
            assert "token" not in answer
            assert "refresh_token" not in answer
            client.ok(LIST_DEVICES)

    @pytest.mark.parametrize("token", ["", "x", "a.b.c", "é", "x" * 3_000, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0."])
    def test_bad_tokens(self, server, token):
        """What is no token of ours is 401 (an empty or overlong one may be 400)."""
        with server.client() as client:
            client.fails(401 if token and len(token) < 3_000 else (400, 401, 413), AUTH, token=token)
            client.ok(HEARTBEAT)

    def test_tampered_tokens(self, server):
        """A token with another payload, another signature, or no signature is 401; so is a refresh token."""
        alice = server.login()
        head, payload, signature = alice.token.split(".")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        other = base64.urlsafe_b64encode(json.dumps({**claims, "sub": "someone-else"}).encode()).rstrip(b"=").decode()
        flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
        for token in (
            f"{head}.{other}.{signature}",
            f"{head}.{payload}.{flipped}",
            f"{head}.{payload}.",
            sign(b"", claims, algorithm="none"),
            sign(b"a guessed secret", claims),
            alice.account["refresh_token"],
        ):
            assert rejected(server, token)

    def test_integrators_token(self, server):
        """A token signed with the server's secret is a login, for a user that nobody registered."""
        secret = server.secret
        alice, now = server.login(), int(time.time())
        with server.client() as client:
            answer = client.ok(AUTH, token=sign(secret, {"sub": "integrated-1", "exp": now + 600}))
            assert answer["user_id"] == "integrated-1"
            alice.text("integrated-1", "welcome", "c")
            assert client.push()["body"] == "welcome"
        for claims in (
            {"sub": "integrated-1", "exp": now - 600},
            {"sub": "integrated-1"},
            {"exp": now + 600},
            {"sub": "not an id", "exp": now + 600},
            {"sub": 5, "exp": now + 600},
            {"sub": "integrated-1", "exp": now + 600, "nbf": now + 300},
        ):
            assert rejected(server, sign(secret, claims)), claims
        assert rejected(server, sign(b"\0" * len(secret), {"sub": "integrated-1", "exp": now + 600}))

    def test_secret_is_private(self, server):
        """The signing secret is readable by its owner alone."""
        assert next(server.folder.rglob("secret")).stat().st_mode & 0o777 == 0o600

    def test_expiry(self, make_server):
        """A connection ends with its token, one's own (`auth.token_ttl`) or the integrator's: GOAWAY `token_expired`."""
        server = make_server({"auth.token_ttl": "1s", "limits.login_timeout": "1s"})
        secret = server.secret
        alice, integrated = server.login(), server.client()
        integrated.auth(sign(secret, {"sub": "integrated-2", "exp": int(time.time()) + 2}))
        for client in (alice, integrated):
            assert client.goaway() == "token_expired"
            assert rejected(server, client.token)
        with server.client() as client:
            client.auth(client.ok(REFRESH, refresh_token=alice.account["refresh_token"])["token"])


class TestRefresh:
    """REFRESH: rotation, and what reuse costs."""

    def test_rotation(self, server):
        """Each refresh gives a new pair, and the new token opens a connection."""
        alice = server.login()
        refresh = alice.account["refresh_token"]
        with server.client() as client:
            for _ in range(3):
                pair = client.ok(REFRESH, refresh_token=refresh)
                assert pair["refresh_token"] != refresh
                assert pair["expires_at"] > time.time() * 1000
                refresh = pair["refresh_token"]
            assert client.auth(pair["token"])["user_id"] == alice.user

    def test_reuse_revokes_the_family(self, server):
        """An old refresh token is 401 and ends everything that came from it, open connections too."""
        alice = server.login()
        with server.client() as client:
            pair = client.ok(REFRESH, refresh_token=alice.account["refresh_token"])
            client.fails(401, REFRESH, refresh_token=alice.account["refresh_token"])
            client.fails(401, REFRESH, refresh_token=pair["refresh_token"])
        alice.goaway()
        assert rejected(server, pair["token"])
        assert rejected(server, alice.token)

    def test_other_sessions_live_on(self, server):
        """Reuse in one family does not concern another login of the same user."""
        alice = server.login()
        other = server.login(alice.user)
        with server.client() as client:
            client.ok(REFRESH, refresh_token=alice.account["refresh_token"])
            client.fails(401, REFRESH, refresh_token=alice.account["refresh_token"])
            client.ok(REFRESH, refresh_token=other.account["refresh_token"])
        alice.goaway()
        other.ok(LIST_DEVICES)

    def test_what_is_no_refresh_token(self, server):
        """401 for garbage and for an access token."""
        alice = server.login()
        with server.client() as client:
            client.fails(401, REFRESH, refresh_token="garbage")
            client.fails(401, REFRESH, refresh_token=alice.token)

    def test_survives_a_restart(self, make_server):
        """Tokens, refresh tokens and their rotation are known after a restart and a kill."""
        server = make_server()
        alice = server.login()
        with server.client() as client:
            pair = client.ok(REFRESH, refresh_token=alice.account["refresh_token"])
        server.kill()
        server.start()
        with server.client() as client:
            client.auth(pair["token"])
        with server.client() as client:
            client.fails(401, REFRESH, refresh_token=alice.account["refresh_token"])
            client.fails(401, REFRESH, refresh_token=pair["refresh_token"])


class TestLogoutAndPassword:
    """LOGOUT and CHANGE_PASSWORD."""

    def test_logout(self, server):
        """The answer comes, then the end of the connection; the tokens are dead, the user's other sessions are not."""
        alice = server.login()
        other = server.login(alice.user)
        alice.ok(LOGOUT)
        alice.read_to_end()
        assert rejected(server, alice.token)
        with server.client() as client:
            client.fails(401, REFRESH, refresh_token=alice.account["refresh_token"])
        other.ok(LIST_DEVICES)
        assert not rejected(server, other.token)

    def test_logout_of_all(self, server):
        """`all` ends every session of the user and nobody else's."""
        alice, bob = server.login(), server.login()
        other = server.login(alice.user)
        alice.ok(LOGOUT, all=True)
        alice.read_to_end()
        other.goaway()
        assert rejected(server, alice.token)
        assert rejected(server, other.token)
        bob.ok(LIST_DEVICES)

    def test_sends_behind_logout(self, server):
        """Frames pipelined behind LOGOUT may be carried out until it is answered: what was acked of them is stored."""
        alice, bob = server.login(), server.login()
        logout = alice.post(LOGOUT)
        sends = []
        with contextlib.suppress(ConnectionError):
            for n in range(20):
                sends.append(alice.post(SEND, to=bob.user, client_id=f"late-{n}", body=f"{n}"))
        alice.read_to_end()
        assert alice.responses[logout]["code"] == 0
        answers = [alice.responses[rid] for rid in sends if rid in alice.responses]
        assert {answer["code"] for answer in answers} <= {0, 401}
        acked = [answer["seq"] for answer in answers if answer["code"] == 0]
        assert acked == list(range(1, len(acked) + 1))
        if acked:
            bodies = [message["body"] for message in bob.pull_all(direct(alice.user, bob.user))]
            assert len(bodies) >= len(acked)
            assert bodies == [f"{n}" for n in range(len(bodies))]

    def test_change_password(self, server):
        """The new password counts, the old does not; this session stays, the others end."""
        alice = server.login()
        other = server.login(alice.user)
        alice.ok(CHANGE_PASSWORD, old_password=PASSWORD, new_password=OTHER_PASSWORD)
        other.goaway()
        alice.ok(LIST_DEVICES)
        assert rejected(server, other.token)
        with server.client() as client:
            client.fails(401, REFRESH, refresh_token=other.account["refresh_token"])
            client.fails(401, LOGIN, user_id=alice.user, password=PASSWORD)
            client.login(alice.user, OTHER_PASSWORD)

    def test_change_password_needs_the_old_one(self, server):
        """401 (or 403) with a wrong old password, 400 with an easy new one; nothing changes."""
        alice = server.login()
        alice.fails((401, 403), CHANGE_PASSWORD, old_password=OTHER_PASSWORD, new_password="yet another 5 horses")
        answer = alice.fails(400, CHANGE_PASSWORD, old_password=PASSWORD, new_password="short")
        assert answer["field"] == "new_password"
        with server.client() as client:
            client.login(alice.user, PASSWORD)


class TestProfiles:
    """GET_USER, UPDATE_PROFILE, SEARCH_USERS."""

    def test_get_user(self, server):
        """One's own and others' profiles; unknown ids are left out."""
        alice = server.login()
        peer = server.register(nickname="Ada")
        users = alice.ok(GET_USER, user_ids=[peer, "nobody-of-this-name", alice.user])["users"]
        rows = {user["user_id"]: user for user in users}
        assert set(rows) == {peer, alice.user}
        assert rows[peer]["nickname"] == "Ada"
        assert rows[peer]["created_at"] > 1_700_000_000_000
        assert not {"password", "password_hash", "hash"} & set(rows[peer])
        assert alice.ok(GET_USER, user_ids=[])["users"] == []

    def test_update_profile(self, server):
        """What is given changes, what is not stays, and others see it."""
        alice, bob = server.login(), server.login()
        alice.ok(UPDATE_PROFILE, nickname="Alice", bio="Hello", avatar="https://example.org/a.png")
        alice.ok(UPDATE_PROFILE, nickname="Alice 2")
        (user,) = bob.ok(GET_USER, user_ids=[alice.user])["users"]
        assert (user["nickname"], user["bio"], user["avatar"]) == ("Alice 2", "Hello", "https://example.org/a.png")

    def test_search(self, server):
        """Found by the start of the id and of the nickname, upper or lower case."""
        alice = server.login()
        one = server.register("findme-by-id", nickname="Zebedee Unique")
        assert one in [user["user_id"] for user in alice.ok(SEARCH_USERS, query="findme-by")["users"]]
        assert one in [user["user_id"] for user in alice.ok(SEARCH_USERS, query="zebedee")["users"]]
        assert alice.ok(SEARCH_USERS, query="no-such-person-at-all")["users"] == []

    def test_search_is_literal(self, server):
        """`%` and `_` are letters here."""
        alice = server.login()
        assert alice.ok(SEARCH_USERS, query="%")["users"] == []
        server.register("under_score-1")
        server.register("underxscore-1")
        assert [user["user_id"] for user in alice.ok(SEARCH_USERS, query="under_score")["users"]] == ["under_score-1"]

    def test_search_pages(self, server):
        """Pages by `cursor` give everyone once; the last has no `next_cursor`."""
        alice = server.login()
        names = [server.register(f"paged-{n}") for n in range(5)]
        found, cursor = [], {}
        while True:
            page = alice.ok(SEARCH_USERS, query="paged-", limit=2, **cursor)
            assert len(page["users"]) <= 2
            found += [user["user_id"] for user in page["users"]]
            if "next_cursor" not in page:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert sorted(found) == names


def test_disconnected_mid_request(server):
    """A client that hangs up while its password is being checked costs the others nothing."""
    name = server.register()
    for _ in range(5):
        client = server.client()
        client.post(LOGIN, user_id=name, password=PASSWORD)
        client.close()
    server.login(name).ok(LIST_DEVICES)


def test_requests_behind_login_wait_for_it(server):
    """A client may pipeline behind LOGIN: what follows is carried out as that user, or refused, never lost."""
    name, bob = server.register(), server.login()
    with server.client() as client:
        login = client.post(LOGIN, user_id=name, password=PASSWORD)
        send = client.post(SEND, to=bob.user, client_id="c", body="right behind")
        assert client.answer(login)["code"] == 0
        code = client.answer(send)["code"]
        assert code in (0, 401)
    if code == 0:
        assert bob.push()["from"] == name


def test_end_of_stream_is_answered_by_end_of_stream(server):
    """A client that closes its sending side is closed."""
    with server.client() as client:
        client.socket.shutdown(1)
        with pytest.raises(ClosedByServer):
            client.read_frame()
