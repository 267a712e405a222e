"""Devices and sessions: two at once, replaced, kicked; on one shard and on two."""

import contextlib
import threading

import pytest
from process import PASSWORD
from wire import AUTH, CHANGE_PASSWORD, KICK_DEVICE, LIST_DEVICES, LOGOUT, MESSAGE, PULL, SEND, direct


def test_both_devices_of_both_users(sharded_server):
    """A message reaches each device of the recipient and the sender's other devices, not the sending one."""
    alice, bob = sharded_server.login(), sharded_server.login()
    alices = [sharded_server.again(alice) for _ in range(3)]
    bobs = [bob, *(sharded_server.again(bob) for _ in range(3))]
    sent = alice.text(bob.user, "to all", "c")
    for device in alices + bobs:
        message = device.push()
        assert (message["seq"], message["message_id"], message["from"]) == (1, sent["message_id"], alice.user)
    bob.text(alice.user, "back", "c")
    assert [device.push()["body"] for device in [alice, *alices, *bobs[1:]]] == ["back"] * 7
    assert [frame.body for frame in alice.pushes if frame.command == MESSAGE] == []


def test_replaced(sharded_server):
    """The same device again takes the old one's place: GOAWAY `replaced`, and the new one gets what comes."""
    alice, bob = sharded_server.login(), sharded_server.login(device_id="phone")
    for _ in range(4):
        newer = sharded_server.again(bob, device_id="phone")
        assert bob.goaway() == "replaced"
        bob = newer
    alice.text(bob.user, "to the newest", "c")
    assert bob.push()["body"] == "to the newest"
    devices = bob.ok(LIST_DEVICES)["devices"]
    assert [device["online"] for device in devices if device["device_id"] == "phone"].count(True) == 1


def test_replaced_by_password_login(sharded_server):
    """A second LOGIN of the device replaces as AUTH does."""
    bob = sharded_server.login(device_id="phone")
    newer = sharded_server.login(bob.user, device_id="phone")
    assert bob.goaway() == "replaced"
    newer.ok(LIST_DEVICES)


def test_another_users_device_of_the_same_name(sharded_server):
    """`device_id` is one's own affair: another user's `phone` is another device."""
    alice, bob = sharded_server.login(device_id="phone"), sharded_server.login(device_id="phone")
    alice.ok(LIST_DEVICES)
    bob.ok(LIST_DEVICES)


def test_made_up_devices(sharded_server):
    """Without `device_id` any number is open at once, by one token or by many logins; each login is a row."""
    alice, bob = sharded_server.login(), sharded_server.login()
    others = [sharded_server.again(alice) for _ in range(10)] + [sharded_server.login(alice.user) for _ in range(2)]
    devices = [device for device in alice.ok(LIST_DEVICES)["devices"] if device["online"]]
    assert len({device["device_id"] for device in devices}) == len(devices) == 3
    bob.text(alice.user, "to all", "c")
    assert [device.push()["body"] for device in [alice, *others]] == ["to all"] * 13


def test_list_devices(server):
    """Each row tells what the user needs in order to recognise a device."""
    alice = server.login(device_id="laptop", platform="linux")
    other = server.login(alice.user, device_id="phone", platform="ios")
    rows = {row["device_id"]: row for row in alice.ok(LIST_DEVICES)["devices"]}
    assert rows["laptop"]["session_id"] == alice.session_id
    assert rows["phone"]["session_id"] == other.session_id
    assert rows["phone"]["platform"] == "ios"
    assert rows["phone"]["online"] is True
    assert rows["phone"]["address"].startswith("127.0.0.1")
    assert rows["phone"]["connected_at"] > 1_700_000_000_000
    other.close()
    for _ in range(200):
        rows = {row["device_id"]: row for row in alice.ok(LIST_DEVICES)["devices"]}
        if not rows.get("phone", {"online": False})["online"]:
            break
    assert not rows.get("phone", {"online": False})["online"]


def test_kick(sharded_server):
    """The kicked session gets GOAWAY `kicked`, its token is dead, the others stay; what is not there is 404."""
    alice = sharded_server.login(device_id="laptop")
    other = sharded_server.login(alice.user, device_id="phone")
    alice.ok(KICK_DEVICE, session_id=other.session_id)
    assert other.goaway() == "kicked"
    with sharded_server.client() as client:
        client.fails(401, AUTH, token=other.token)
    alice.fails(404, KICK_DEVICE, session_id="no-such-session")
    stranger = sharded_server.login()
    stranger.fails(404, KICK_DEVICE, session_id=alice.session_id)
    alice.ok(LIST_DEVICES)


def test_kick_ends_every_connection_of_the_session(sharded_server):
    """Connections that were opened by the session's token go with it."""
    alice = sharded_server.login()
    other = sharded_server.login(alice.user)
    opened = [other, *(sharded_server.again(other, device_id=f"d{n}") for n in range(4))]
    alice.ok(KICK_DEVICE, session_id=other.session_id)
    assert [client.goaway() for client in opened] == ["kicked"] * 5
    alice.ok(LIST_DEVICES)


@pytest.mark.parametrize("how", ["kick", "logout", "password"])
def test_nothing_is_carried_out_after_revocation(sharded_server, how):
    """Once the revocation is answered, no frame of the session is carried out, on whatever shard it lives."""
    bob, alice = sharded_server.login(), sharded_server.login()
    others = [sharded_server.login(alice.user) for _ in range(3)]
    if how == "kick":
        for other in others:
            alice.ok(KICK_DEVICE, session_id=other.session_id)
    elif how == "logout":
        alice.ok(LOGOUT, all=True)
    else:
        alice.ok(CHANGE_PASSWORD, old_password=PASSWORD, new_password="a 2nd horse of mine")
    for other in others:
        with contextlib.suppress(ConnectionError):
            other.send(SEND, {"to": bob.user, "client_id": f"late-{other.session_id}", "body": "late"})
        other.goaway()
    sharded_server.login().text(bob.user, "what bob hears", "c")
    assert bob.push()["body"] == "what bob hears"


def stream(client, to, name):
    """Send without pause until the server ends the connection; wants no answers."""
    pause = threading.Event()
    with contextlib.suppress(OSError):
        for n in range(100_000):
            client.send(SEND, {"to": to, "client_id": f"{name}-{n}", "body": "x"})
            if n % 20 == 0:
                pause.wait(0.002)  # below the limit on requests


def test_revocation_under_load(sharded_server):
    """Sessions that send without pause are kicked: all that they sent has an older id than what follows the answer."""
    alice, bob = sharded_server.login(), sharded_server.login()
    other = sharded_server.register()
    victims = [sharded_server.login(alice.user) for _ in range(4)]
    threads = [threading.Thread(target=stream, args=(victim, other, victim.session_id), daemon=True) for victim in victims]
    for thread in threads:
        thread.start()
    while not alice.sync_all()[0]:
        pass  # until the first of their messages is stored
    for victim in victims:
        alice.ok(KICK_DEVICE, session_id=victim.session_id)
    marker = bob.text(alice.user, "after the answers", "after")["message_id"]
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "the server lets a kicked session send for ever"
    (newest,) = alice.ok(PULL, conversation_id=direct(alice.user, other), limit=1)["messages"]
    assert newest["message_id"] < marker


def test_sessions_per_user(make_server):
    """Beyond `limits.sessions_per_user` a login is refused, or the oldest session goes; never more are open."""
    server = make_server({"limits.sessions_per_user": 3})
    alice = server.login()
    codes = []
    for _ in range(5):
        client = server.client()
        codes.append(client.call(AUTH, token=alice.token)["code"])
    if 0 in codes and any(codes):
        assert codes == [0, 0] + [codes[-1]] * 3
        assert codes[-1] in (403, 409, 429)
    else:
        assert alice.goaway() in ("replaced", "kicked")
