"""An HTTP client of the API over http.client, and the schemas that the server itself says its answers have."""

import http.client
import itertools
import json
import re
import subprocess
import sys
import time

import attrs
import jsonschema
from process import PASSWORD
from wire import sign

JSON_TYPE = {"Content-Type": "application/json"}
_numbers = itertools.count(1)


@attrs.frozen
class Answer:
    """One answer; header names in lower case."""

    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        assert self.headers["content-type"] == "application/json", self.headers
        return json.loads(self.body)

    def refused(self, status, error=None, field=None):
        """Check that it is a refusal in the form of section 2; gives its fields."""
        fields = self.json
        assert self.status == status == fields["code"], (self.status, fields)
        assert error is None or fields["error"] == error, fields
        assert field is None or fields.get("field") == field, fields
        assert re.fullmatch("[a-z_]+", fields["error"])
        assert fields["message"]
        assert set(fields) <= {"code", "error", "message", "field", "retry_after_ms"}
        assert ("www-authenticate" in self.headers) == (status == 401)
        assert ("retry-after" in self.headers) == ("retry_after_ms" in fields)
        return fields

    def done(self):
        """Check that it is a success; gives its fields."""
        fields = self.json
        assert (self.status, fields.get("code")) == (200, 0), (self.status, fields)
        return fields


class Site:
    """The HTTP listener of a server, as one who may show a token or a key sees it.

    Args:
        credentials: headers of every request.
    """

    def __init__(self, server, user=None, /, **credentials):
        self.server = server
        self.user = user
        self.address = server.ready["http"][0]
        self.credentials = credentials

    def ask(self, method, path, body=None, headers=None):
        """One request on a connection of its own. A body that is no bytes is sent as JSON."""
        sent = {**self.credentials, **({} if body is None else JSON_TYPE), **(headers or {})}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        host, port = self.address.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        try:
            connection.request(method, path, body, {name: value for name, value in sent.items() if value is not None})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    def get(self, path, **options):
        return self.ask("GET", path, **options)

    def post(self, path, body=None, **options):
        return self.ask("POST", path, body, **options)

    def command(self, name, **fields):
        return self.post(f"/v1/commands/{name}", fields)

    def by_token(self, token, user=None):
        return Site(self.server, user, Authorization=f"Bearer {token}")

    def new_user(self):
        """A user of its own with an integrator's token: no password is hashed."""
        user = f"http-{next(_numbers)}"
        self.server.register(user)
        return self.integrated(user)

    def integrated(self, user, *, lasts_s=600):
        token = sign(self.server.secret, {"sub": user, "exp": int(time.time()) + lasts_s, "n": next(_numbers)})
        return self.by_token(token, user)

    def logged_in(self, user):
        """The user by a token of POST /v1/sessions."""
        answer = Site(self.server).post("/v1/sessions", {"user_id": user, "password": PASSWORD}).done()
        return self.by_token(answer["token"], user)

    def by_key(self, name, *scopes, user=None):
        """A new API key with these scopes, made by the command line."""
        words = [word for scope in scopes for word in ("--scope", scope)]
        out = run_cli(self.server, "token", "key", "add", name, *words)
        key = next(word for word in out.split() if word.startswith("imk_"))
        return Site(self.server, user, **{"X-API-Key": key, **({"X-IM-User": user} if user else {})})


def run_cli(server, *words):
    """The command line on the running server's folder; gives what it prints."""
    command = [sys.executable, "-m", "imserver", "--set", f"server.data_dir={server.data}", *words]
    done = subprocess.run(command, cwd=server.folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Described:
    """What /openapi.json says."""

    def __init__(self, site):
        self.api = site.get("/openapi.json").json

    def operation(self, method, path):
        return self.api["paths"][path][method.lower()]

    def check_answer(self, method, path, answer):
        """The answer has a status and a body that the description of this path knows."""
        response = self.operation(method, path)["responses"][str(answer.status)]
        if "$ref" in response:
            response = self.api["components"]["responses"][response["$ref"].rpartition("/")[2]]
        kind = answer.headers.get("content-type", "").partition(";")[0]
        schema = response["content"][kind]["schema"]
        if len(schema.get("anyOf", ())) == 2:
            # One with the others' fields: `closed` would judge each alone.
            schema = {"allOf": [schema]}
        value = json.loads(answer.body) if kind == "application/json" else answer.body.decode()
        self.check(schema, value)

    def check(self, schema, value):
        whole = {**schema, "components": self.api["components"]}
        # Of several schemas that go together none knows all fields.
        whole = whole if "allOf" in schema else closed(whole)
        jsonschema.Draft202012Validator(whole).validate(value)


def closed(schema):
    """The same schema for an answer that has no field but those that are declared."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    shut = {key: closed(value) for key, value in schema.items()}
    if isinstance(shut.get("properties"), dict) and shut.get("type") == "object" and "allOf" not in shut:
        shut.setdefault("unevaluatedProperties", False)
    return shut
