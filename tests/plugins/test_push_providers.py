"""The providers against servers that check what comes: JWTs by the public key, headers, JSON; and what answers mean."""

import hashlib
import hmac
import json
from urllib.parse import parse_qs

import jwt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from push_fakes import a_push, fake, pem, started

from imserver.plugin import ImError, InvalidBody, NotFound, PluginError, RateLimited, Unavailable
from imserver_plugins.push_apns import PushApnsPlugin
from imserver_plugins.push_fcm import PushFcmPlugin
from imserver_plugins.push_http import PushHttpPlugin

MINUTE_S = 60
TOKEN = "ab" * 32


async def failure_of(plugin, **fields):
    """What sending raises."""
    with pytest.raises(ImError) as raised:
        await plugin.send(a_push(**fields))
    return raised.value


# ---------------------------------------------------------------- APNs


@pytest.fixture
def apns_key(tmp_path):
    """Apple's key: the file is there, and the key itself is returned."""
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.p8").write_text(pem(key))
    return key


def apns_settings(folder, server, **more):
    return {
        "team_id": "TEAM123456",
        "key_id": "KEY1234567",
        "key_file": folder / "key.p8",
        "topics": ("com.example.chat", "com.example.work"),
        "url": server.url,
        "ca_file": folder / "ca.pem",
        **more,
    }


async def test_apns_requests(tmp_path, apns_key):
    """HTTP/2, path, headers, an ES256 token by the key, and the payload, as Apple documents them."""
    async with fake(tmp_path, "h2") as server, started(PushApnsPlugin(), **apns_settings(tmp_path, server)) as plugin:
        assert plugin.announced == [("push.provider", {"provider": plugin})]
        await plugin.send(a_push())
        await plugin.send(a_push(app="com.example.work"))
    first, second = server.requests
    assert (first.version, first.method, first.path) == ("2", "POST", f"/3/device/{TOKEN}")
    expected = {
        "apns-topic": "com.example.chat",
        "apns-push-type": "alert",
        "apns-priority": "10",
        "apns-collapse-id": "c" * 32,
        "apns-expiration": "1750086400",
    }
    assert {name: first.headers[name] for name in expected} == expected
    assert second.headers["apns-topic"] == "com.example.work"
    assert first.connection == second.connection
    scheme, _, token = first.headers["authorization"].partition(" ")
    assert scheme == "bearer"
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "kid": "KEY1234567", "typ": "JWT"}
    claims = jwt.decode(token, apns_key.public_key(), algorithms=["ES256"], options={"verify_iat": False})
    assert claims == {"iss": "TEAM123456", "iat": 1_750_000_000}
    assert first.json() == {
        "aps": {
            "alert": {"title": "Alice", "body": "Grüße 👋"},
            "badge": 5,
            "sound": "default",
            "thread-id": "d:alice:bob",
            "mutable-content": 1,
        },
        "im": {
            "conversation_id": "d:alice:bob",
            "seq": 7,
            "message_id": "0000c5e1a2b3c4d5",
            "from": "alice",
            "type": "text",
            "unread": 2,
        },
    }


async def test_the_apns_token_is_renewed(tmp_path, apns_key):
    """The same one for twenty minutes at least, a new one before an hour; one that Apple calls stale is not used again."""
    async with fake(tmp_path, "h2") as server, started(PushApnsPlugin(), **apns_settings(tmp_path, server)) as plugin:

        async def token():
            await plugin.send(a_push())
            return server.requests[-1].headers["authorization"]

        first = await token()
        plugin.clock.advance(25 * MINUTE_S)
        assert await token() == first
        plugin.clock.advance(30 * MINUTE_S)
        second = await token()
        assert second != first
        server.answer = lambda request: (403, {}, {"reason": "ExpiredProviderToken"})
        assert isinstance(await failure_of(plugin), Unavailable)
        server.answer = lambda request: (200, {}, b"")
        assert await token() == second  # too young to be renewed: Apple would refuse that
        plugin.clock.advance(21 * MINUTE_S)
        server.answer = lambda request: (403, {}, {"reason": "ExpiredProviderToken"})
        await failure_of(plugin)
        server.answer = lambda request: (200, {}, b"")
        assert await token() != second


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (410, "Unregistered", NotFound),
        (400, "BadDeviceToken", InvalidBody),
        (400, "DeviceTokenNotForTopic", InvalidBody),
        (413, "PayloadTooLarge", InvalidBody),
        (429, "TooManyRequests", RateLimited),
        (429, "TooManyProviderTokenUpdates", Unavailable),
        (403, "InvalidProviderToken", Unavailable),
        (500, "InternalServerError", Unavailable),
        (503, "Shutdown", Unavailable),
    ],
)
async def test_apns_answers(tmp_path, apns_key, status, reason, kind):
    """A device that is gone, a push that is refused, one device too often, and Apple or the account in trouble."""
    async with fake(tmp_path, "h2") as server, started(PushApnsPlugin(), **apns_settings(tmp_path, server)) as plugin:
        server.answer = lambda request: (status, {}, {"reason": reason})
        failure = await failure_of(plugin)
        assert (type(failure), reason in str(failure)) == (kind, True)
        server.answer = lambda request: (status, {"retry-after": "17"}, b"<html>")
        if status in (500, 503):
            assert (await failure_of(plugin)).retry_after_ms == 17_000


async def test_apns_tokens(tmp_path, apns_key):
    """Hex digits, and the bundle id of one of the apps, or none."""
    async with fake(tmp_path, "h2") as server, started(PushApnsPlugin(), **apns_settings(tmp_path, server)) as plugin:
        plugin.check_token(TOKEN, "")
        plugin.check_token(TOKEN, "com.example.work")
        for token, app in ((TOKEN[:-1], ""), ("../" + TOKEN, ""), (TOKEN, "com.example.other")):
            with pytest.raises(InvalidBody):
                plugin.check_token(token, app)


async def test_many_at_once_share_a_connection(tmp_path, apns_key):
    """Forty pushes at once are streams of one or two connections."""
    async with (
        fake(tmp_path, "h2") as server,
        started(PushApnsPlugin(), **apns_settings(tmp_path, server)) as plugin,
        trio.open_nursery() as nursery,
    ):
        for number in range(40):
            nursery.start_soon(plugin.send, a_push(seq=number))
    assert sorted(request.json()["im"]["seq"] for request in server.requests) == list(range(40))
    assert server.connections <= 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key_id": ""}, "key_id must be set"),
        ({"topics": ()}, "topics must be set"),
        ({"key_file": "missing"}, "cannot be read"),
        ({"key_file": "ca.pem"}, "no private key"),
        ({"ca_file": "key.p8"}, "cannot be used"),
    ],
)
async def test_apns_settings(tmp_path, apns_key, change, words):
    """What is missing or wrong stops the start, and says what it is."""
    async with fake(tmp_path, "h2") as server:
        change = {name: tmp_path / value if name.endswith("_file") else value for name, value in change.items()}
        with pytest.raises(PluginError, match=words):
            async with started(PushApnsPlugin(), **apns_settings(tmp_path, server, **change)):
                raise AssertionError("it started")


# ---------------------------------------------------------------- FCM


@pytest.fixture(scope="module")
def fcm_key():
    """Google's key of the service account."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Google:
    """Grants access tokens to whoever shows a good assertion, and takes messages from whoever shows one of those."""

    def __init__(self, server, key, folder):
        self.url = server.url
        self.key = key
        self.granted = []
        self.expires_in = 3600
        self.refusal = None
        server.answer = self.answer
        account = {
            "type": "service_account",
            "project_id": "chat-1",
            "private_key_id": "k1",
            "private_key": pem(key),
            "client_email": "push@chat-1.iam.gserviceaccount.com",
            "token_uri": f"{server.url}/token",
        }
        (folder / "account.json").write_text(json.dumps(account))

    def answer(self, request):
        if request.path == "/token":
            return self.grant(request)
        if request.headers["authorization"] != f"Bearer {self.granted[-1]}":
            return 401, {}, {"error": {"code": 401, "status": "UNAUTHENTICATED"}}
        if self.refusal is not None:
            return self.refusal
        return 200, {}, {"name": "projects/chat-1/messages/1"}

    def grant(self, request):
        form = parse_qs(request.body.decode(), strict_parsing=True)
        assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
        assert request.headers["content-type"] == "application/x-www-form-urlencoded"
        (assertion,) = form["assertion"]
        assert jwt.get_unverified_header(assertion) == {"alg": "RS256", "kid": "k1", "typ": "JWT"}
        claims = jwt.decode(
            assertion,
            self.key.public_key(),
            algorithms=["RS256"],
            audience=f"{self.url}/token",
            options={"verify_exp": False, "verify_iat": False},
        )
        assert claims["iss"] == "push@chat-1.iam.gserviceaccount.com"
        assert claims["scope"] == "https://www.googleapis.com/auth/firebase.messaging"
        assert claims["exp"] - claims["iat"] == 3600
        self.granted.append(f"access-{len(self.granted)}")
        return 200, {}, {"access_token": self.granted[-1], "expires_in": self.expires_in, "token_type": "Bearer"}


def fcm_settings(folder, server):
    return {"service_account_file": folder / "account.json", "url": server.url, "ca_file": folder / "ca.pem"}


async def test_fcm_requests(tmp_path, fcm_key):
    """An access token by a signed assertion, then messages with it, as Google documents them; the token is kept."""
    async with fake(tmp_path, "http/1.1") as server:
        google = Google(server, fcm_key, tmp_path)
        async with started(PushFcmPlugin(), **fcm_settings(tmp_path, server)) as plugin:
            async with trio.open_nursery() as nursery:
                for number in range(5):
                    nursery.start_soon(plugin.send, a_push(token=f"device-{number}"))
            assert google.granted == ["access-0"]
            plugin.clock.advance(3500)
            await plugin.send(a_push(token="device"))
            assert google.granted == ["access-0"]
            plugin.clock.advance(50)
            await plugin.send(a_push(token="device", expires_at=plugin.clock.now_ms() - 1))
            assert google.granted == ["access-0", "access-1"]
    sent = [request for request in server.requests if request.path != "/token"]
    assert {(request.method, request.path) for request in sent} == {("POST", "/v1/projects/chat-1/messages:send")}
    assert sent[-2].json() == {
        "message": {
            "token": "device",
            "notification": {"title": "Alice", "body": "Grüße 👋"},
            "data": {
                "conversation_id": "d:alice:bob",
                "seq": "7",
                "message_id": "0000c5e1a2b3c4d5",
                "sender": "alice",
                "type": "text",
                "unread": "2",
                "badge": "5",
            },
            "android": {
                "collapse_key": "c" * 32,
                "priority": "high",
                "ttl": "82900s",
                "notification": {"tag": "c" * 32, "notification_count": 5},
            },
            "apns": {
                "headers": {"apns-collapse-id": "c" * 32, "apns-expiration": "1750086400"},
                "payload": {
                    "aps": {"badge": 5, "thread-id": "d:alice:bob", "mutable-content": 1, "sound": "default"},
                },
            },
        }
    }
    assert sent[-1].json()["message"]["android"]["ttl"] == "0s"


async def test_a_token_that_google_takes_back(tmp_path, fcm_key):
    """401: it is tried again later, with a new access token."""
    async with fake(tmp_path, "http/1.1") as server:
        google = Google(server, fcm_key, tmp_path)
        async with started(PushFcmPlugin(), **fcm_settings(tmp_path, server)) as plugin:
            await plugin.send(a_push())
            google.granted.append("revoked all before")
            assert isinstance(await failure_of(plugin), Unavailable)
            await plugin.send(a_push())
    assert len(google.granted) == 3


FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"


@pytest.mark.parametrize(
    ("status", "headers", "code", "kind", "wait_ms"),
    [
        (404, {}, "UNREGISTERED", NotFound, None),
        (400, {}, "INVALID_ARGUMENT", InvalidBody, None),
        (403, {}, "SENDER_ID_MISMATCH", InvalidBody, None),
        (401, {}, "THIRD_PARTY_AUTH_ERROR", InvalidBody, None),
        (429, {}, "QUOTA_EXCEEDED", RateLimited, 60_000),
        (429, {"retry-after": "5"}, "QUOTA_EXCEEDED", RateLimited, 5_000),
        (503, {"retry-after": "9"}, "UNAVAILABLE", Unavailable, 9_000),
        (500, {}, "INTERNAL", Unavailable, 0),
        (404, {}, "", Unavailable, 0),  # a project that is not there says nothing of the device
        (403, {}, "", Unavailable, 0),
    ],
)
async def test_fcm_answers(tmp_path, fcm_key, status, headers, code, kind, wait_ms):
    """FCM's own codes in `details`, beside the status of all Google APIs."""
    async with fake(tmp_path, "http/1.1") as server:
        google = Google(server, fcm_key, tmp_path)
        details = [{"@type": "type.googleapis.com/google.rpc.BadRequest"}]
        if code:
            details.append({"@type": FCM_ERROR, "errorCode": code})
        google.refusal = (status, headers, {"error": {"code": status, "status": "SOME_STATUS", "details": details}})
        async with started(PushFcmPlugin(), **fcm_settings(tmp_path, server)) as plugin:
            failure = await failure_of(plugin)
    assert (type(failure), failure.retry_after_ms) == (kind, wait_ms)


async def test_google_gives_no_token(tmp_path, fcm_key):
    """No access token: nothing is sent, and all waits."""
    async with fake(tmp_path, "http/1.1") as server:
        Google(server, fcm_key, tmp_path)
        async with started(PushFcmPlugin(), **fcm_settings(tmp_path, server)) as plugin:
            for answer in ((400, {}, {"error": "invalid_grant"}), (200, {}, {"no": "token"}), (200, {}, b"<html>")):
                server.answer = lambda request, answer=answer: answer
                assert isinstance(await failure_of(plugin), Unavailable)
    assert {request.path for request in server.requests} == {"/token"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is missing"),
        ("{}", "no service account"),
        ('{"project_id": "p", "client_email": "e", "private_key": "SECRET"}', "no key in PEM"),
    ],
)
async def test_fcm_settings(tmp_path, content, words):
    """What is missing or wrong stops the start; no part of a key is told."""
    settings = {}
    if content is not None:
        (tmp_path / "account.json").write_text(content)
        settings = {"service_account_file": tmp_path / "account.json"}
    with pytest.raises(PluginError, match=words) as raised:
        async with started(PushFcmPlugin(), **settings):
            raise AssertionError("it started")
    assert "SECRET" not in str(raised.value)


# ---------------------------------------------------------------- a gateway of one's own

SECRET = "a secret for the tests"


def http_settings(folder, server, **more):
    return {"url": f"{server.url}/push?x=1", "secret": SECRET, "ca_file": folder / "ca.pem", **more}


async def test_gateway_requests(tmp_path):
    """A POST of JSON with the signature of webhooks over the time and the body; by each key of a file."""
    (tmp_path / "keys").write_text("the first of two keys\nthe second of two keys\n")
    files = {"secret": "", "secret_file": tmp_path / "keys"}
    async with fake(tmp_path, "http/1.1") as server:
        async with started(PushHttpPlugin(), **http_settings(tmp_path, server)) as plugin:
            await plugin.send(a_push(app="com.example.chat"))
        async with started(PushHttpPlugin(), **http_settings(tmp_path, server, **files)) as plugin:
            await plugin.send(a_push())
    first, second = server.requests
    assert (first.method, first.path, first.headers["content-type"]) == ("POST", "/push?x=1", "application/json")
    assert first.json() == {
        "server": "im-1",
        "user_id": "bob",
        "token": TOKEN,
        "app": "com.example.chat",
        "title": "Alice",
        "text": "Grüße 👋",
        "badge": 5,
        "unread": 2,
        "conversation_id": "d:alice:bob",
        "seq": 7,
        "message_id": "0000c5e1a2b3c4d5",
        "from": "alice",
        "type": "text",
        "sent_at": 1_750_000_000_000,
        "collapse_id": "c" * 32,
        "expires_at": 1_750_086_400_000,
    }

    def signed(request, key):
        text = request.headers["x-im-timestamp"].encode() + b"." + request.body
        return "v1=" + hmac.new(key, text, hashlib.sha256).hexdigest()

    assert first.headers["x-im-timestamp"] == "1750000000"
    assert first.headers["x-im-signature"] == signed(first, SECRET.encode())
    by_two = [signed(second, b"the first of two keys"), signed(second, b"the second of two keys")]
    assert second.headers["x-im-signature"] == ",".join(by_two)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(410, NotFound), (429, RateLimited), (422, InvalidBody), (302, Unavailable), (401, Unavailable), (502, Unavailable)],
)
async def test_gateway_answers(tmp_path, status, kind):
    """410: the device is gone; 429: later; 4xx: refused; the rest: the gateway is in trouble. No redirect is followed."""
    async with fake(tmp_path, "http/1.1") as server:
        server.answer = lambda request: (status, {"Location": "/elsewhere", "Retry-After": "3"}, b"x" * 200_000)
        async with started(PushHttpPlugin(), **http_settings(tmp_path, server)) as plugin:
            failure = await failure_of(plugin)
    assert type(failure) is kind
    assert failure.retry_after_ms == (3000 if kind in (RateLimited, Unavailable) else None)
    assert [request.path for request in server.requests] == ["/push?x=1"]


async def test_no_gateway(tmp_path):
    """Nobody listens, or the certificate is a stranger's: Unavailable."""
    async with fake(tmp_path, "http/1.1") as server:
        async with started(PushHttpPlugin(), **http_settings(tmp_path, server, ca_file=None)) as plugin:
            assert isinstance(await failure_of(plugin), Unavailable)
        settings = http_settings(tmp_path, server)
    async with started(PushHttpPlugin(), **settings) as plugin:
        assert isinstance(await failure_of(plugin), Unavailable)
    assert server.requests == []


@pytest.mark.parametrize("change", [{"url": ""}, {"secret": ""}, {"secret": "short"}, {"secret_file": "missing"}])
async def test_gateway_settings(tmp_path, change):
    """What is missing or wrong stops the start."""
    settings = {"url": "https://example.org/push", "secret": SECRET, **change}
    if "secret_file" in change:
        settings |= {"secret": "", "secret_file": tmp_path / "missing"}
    with pytest.raises(PluginError, match=r"plugins\.push_http"):
        async with started(PushHttpPlugin(), **settings):
            raise AssertionError("it started")
