"""TYPING and presence of a real server, over one shard and two: 1012, 1013, 2008, 5005, 5006."""

from wire import GET_USER, HELLO, JSON, SYNC, UPDATE_PROFILE, direct

GET_PRESENCE, WATCH_PRESENCE, TYPING = 1012, 1013, 2008
TYPING_PUSH, PRESENCE = 5005, 5006


def presence_of(client, *names):
    """What a client is told of these users."""
    return client.ok(GET_PRESENCE, user_ids=list(names))["presence"]


class TestTyping:
    """TYPING."""

    def test_before_the_first_message(self, sharded_server):
        """Every device of the other is told, in its own encoding; nobody else is, and no conversation begins."""
        alice, bob = sharded_server.login(), sharded_server.login()
        bobs = [bob, *(sharded_server.again(bob, flags=flags) for flags in (0, JSON, 0, JSON))]
        alices = [sharded_server.again(alice) for _ in range(3)]
        alice.send(TYPING, {"to": bob.user})
        expected = {"conversation_id": direct(alice.user, bob.user), "user_id": alice.user, "on": True}
        for device in bobs:
            assert device.push(TYPING_PUSH) == expected
        alice.send(TYPING, {"to": bob.user, "on": False})
        for device in bobs:
            assert device.push(TYPING_PUSH) == {**expected, "on": False}
        assert alice.ok(SYNC)["conversations"] == []
        for device in (alice, *alices):
            assert [frame.command for frame in device.drain(0.1)] == []

    def test_in_a_conversation(self, pair):
        """By its id, with an answer where one is asked for."""
        alice, bob = pair
        alice.text(bob.user, "hi", "c1")
        bob.push()
        assert bob.call(TYPING, conversation_id=direct(alice.user, bob.user)).keys() == {"rid", "code"}
        assert alice.push(TYPING_PUSH)["user_id"] == bob.user

    def test_refusals(self, server, pair):
        """Who is not part of it, whom there is not, who is not logged in."""
        alice, bob = pair
        stranger = server.login()
        stranger.fails(403, TYPING, conversation_id=direct(alice.user, bob.user))
        assert alice.fails(404, TYPING, to="no-such-user-at-all")["field"] == "to"
        alice.fails(400, TYPING, to="not an id")
        alice.fails(400, TYPING)
        alice.fails(400, TYPING, to=bob.user, on="yes")
        with server.client() as nobody:
            nobody.ok(HELLO)
            nobody.fails(401, TYPING, to=bob.user)


class TestPresence:
    """GET_PRESENCE and WATCH_PRESENCE."""

    def test_online_with_platforms(self, sharded_server):
        """Of all devices, wherever they are connected."""
        alice, bob = sharded_server.login(), sharded_server.login(platform="ios")
        others = [sharded_server.again(bob, platform=platform) for platform in ("web", "", "web")]
        assert presence_of(alice, bob.user, "no-such-user-at-all") == [
            {"user_id": bob.user, "online": True, "platforms": ["ios", "web"]}
        ]
        assert len(others) == 3

    def test_who_was_never_here_was_never_seen(self, server):
        """Offline, and no time."""
        alice, name = server.login(), server.register()
        assert presence_of(alice, name) == [{"user_id": name, "online": False, "platforms": []}]

    def test_watching(self, sharded_server):
        """Watchers in every shard are told that somebody comes, and that the last device has gone."""
        name = sharded_server.register()
        watchers = [sharded_server.login() for _ in range(2)]
        watchers += [sharded_server.again(watchers[0], flags=JSON) for _ in range(3)]
        bystander = sharded_server.again(watchers[0])
        for watcher in watchers:
            assert watcher.ok(WATCH_PRESENCE, user_ids=[name])["presence"] == [
                {"user_id": name, "online": False, "platforms": []}
            ]
        bob = sharded_server.login(name, platform="ios")
        second = sharded_server.again(bob, platform="ios")
        for watcher in watchers:
            assert watcher.push(PRESENCE) == {"user_id": name, "online": True, "platforms": ["ios"]}
        bob.close()
        second.close()
        for watcher in watchers:
            gone = watcher.push(PRESENCE)
            assert gone.pop("last_seen") > 0
            assert gone == {"user_id": name, "online": False, "platforms": []}
        assert bystander.drain(0.1) == []

    def test_unwatching(self, server):
        """The answer names nobody, and nothing comes any more."""
        alice, bob, carl = server.login(), server.login(), server.login()
        alice.ok(WATCH_PRESENCE, user_ids=[bob.user, carl.user])
        assert alice.ok(WATCH_PRESENCE, user_ids=[bob.user], unwatch=True)["presence"] == []
        bob.close()
        carl.close()
        assert alice.push(PRESENCE)["user_id"] == carl.user
        assert alice.drain(0.1) == []

    def test_last_seen_outlives_the_server(self, make_server):
        """It is stored when the server stops, and hidden from others if its user wants that."""
        server = make_server()
        alice, bob, carl = server.login(), server.login(), server.login()
        carl.ok(UPDATE_PROFILE, last_seen="nobody")
        assert carl.ok(GET_USER, user_ids=[carl.user])["users"][0]["last_seen"] == "nobody"
        before = alice.ok(GET_USER, user_ids=[bob.user])["users"][0]["created_at"]
        names = (alice.user, bob.user, carl.user)
        server.restart()
        dora = server.login()
        seen = {one["user_id"]: one for one in presence_of(dora, *names)}
        assert seen[names[1]]["last_seen"] >= before
        assert seen[names[2]] == {"user_id": names[2], "online": False, "platforms": []}

    def test_bounds(self, server):
        """500 users in a request; the fields have types."""
        alice = server.login()
        too_many = [f"u{number}" for number in range(501)]
        assert alice.fails(413, GET_PRESENCE, user_ids=too_many)["field"] == "user_ids"
        assert alice.fails(413, WATCH_PRESENCE, user_ids=too_many)["field"] == "user_ids"
        assert alice.fails(400, GET_PRESENCE)["field"] == "user_ids"
        assert alice.fails(400, WATCH_PRESENCE, user_ids=["not an id"])["code"] == 400
        assert alice.fails(400, WATCH_PRESENCE, user_ids=[alice.user], unwatch=1)["field"] == "unwatch"
