"""/openapi.json: valid, complete, and true: what it says of requests is what the server takes."""

import json
import re

import jsonschema
import pytest
from api_rig import Described, Site
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate

from imserver.commands import CommandTable, commands_of, routes_of
from imserver.config import Config
from imserver.connection import add_connection_commands
from imserver.http.answers import ANSWERS, COMPONENTS
from imserver.http.described import OWN, ROUTES
from imserver.http.fields import explain
from imserver.http.openapi import describe
from imserver.http.resources import RESOURCES
from imserver.plugin import Plugin, Struct, command, route
from imserver.plugin_loader import load_plugins


@pytest.fixture(scope="module")
def program():
    """The commands and routes of a server with its default plugins."""
    table = CommandTable()
    add_connection_commands(table)
    registry = load_plugins(Config())
    table.add(registry.commands)
    return list(table), [row for plugin in registry.plugins for row in routes_of(plugin)]


def test_it_is_valid(described):
    """OpenAPI 3.1, every reference and operationId included."""
    validate(described.api)
    ids = [one["operationId"] for path in described.api["paths"].values() for one in path.values()]
    assert len(ids) == len(set(ids))


def test_it_is_complete(described, program):
    """All commands, the paths of those that there are, all routes, and the server's own; and nothing else."""
    commands, routes = program
    there = {row.command_id for row in commands}
    wanted = {("POST", f"/v1/commands/{row.command_id}") for row in commands}
    wanted |= {(one.method, one.path.replace(":int", "")) for one in RESOURCES if one.command_id in there}
    wanted |= {(one.method, one.path) for one in routes} | {("GET", path) for path in OWN}
    told = {(method.upper(), path) for path, item in described.api["paths"].items() for method in item}
    assert told == wanted


def test_every_path_of_it_is_there(described, site):
    """None of them is 404 or 405 for want of a route."""
    for path, item in described.api["paths"].items():
        for method in item:
            answer = site.ask(method.upper(), re.sub("{[^}]*}", "1", path))
            assert answer.status not in (404, 405), (method, path, answer)


def test_every_path_of_it_is_explained(described):
    """A summary, a tag that is declared, who may ask, every error; each parameter of a path is declared."""
    tags = {tag["name"] for tag in described.api["tags"]}
    for path, item in described.api["paths"].items():
        for operation in item.values():
            assert operation["summary"]
            assert set(operation["tags"]) <= tags
            assert operation["security"]
            declared = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
            assert declared == set(re.findall(r"{(\w+)}", path))
            if path.startswith("/v1/") and path not in OWN:
                assert {"200", "400", "401", "403", "404", "413", "429", "500", "503"} <= set(operation["responses"])


def test_commands_that_are_here_have_declared_answers(program):
    """Nobody adds a command of the project's own and forgets what it answers; nor a route."""
    commands, routes = program
    assert {row.command_id for row in commands} <= set(ANSWERS)
    assert {(one.method, one.path) for one in routes} == set(ROUTES)


def test_every_field_is_explained(described):
    """Each field of each request has a description, its own or the one that its name has everywhere."""
    requests = set(described.api["components"]["schemas"]) - set(COMPONENTS)
    for name, schema in described.api["components"]["schemas"].items():
        for field, property_ in schema.get("properties", {}).items():
            if "$ref" not in property_ and name in requests:
                assert property_.get("description"), (name, field)


def test_examples_are_valid(described):
    """An example that a schema shows is one that it allows."""

    def walk(schema):
        if isinstance(schema, list):
            for one in schema:
                walk(one)
        elif isinstance(schema, dict):
            for example in schema.get("examples", []) if isinstance(schema.get("examples"), list) else []:
                described.check({**schema}, example)
            for one in schema.values():
                walk(one)

    walk(described.api["paths"])
    walk(described.api["components"]["schemas"])


def test_regular_expressions_are_those_of_schemas():
    r"""Python's \A and \Z become ^ and $; what an example or a default says is left alone."""
    schema = {"properties": {"pattern": {"type": "string", "pattern": r"\Aa\Z", "default": r"\A"}}}
    assert explain(schema) == {"properties": {"pattern": {"type": "string", "pattern": "^a$", "default": r"\A"}}}


class Message(Struct, kw_only=True):
    """A request of a plugin that is called as one of the server's own schemas."""

    text: str = "x"


class Chatty(Plugin):
    """A plugin of somebody else's."""

    name = "chatty"

    @command(7001, request=Message)
    def say(self, ctx, request):
        """Say it."""

    @route("PUT", "/v1/chatty/{number:int}")
    async def put(self, ctx, request):
        """Put it.

        At length.
        """


def test_commands_and_routes_of_others():
    """They are described, and a request class that is called like a schema of ours does not take its place."""
    plugin = Chatty()
    api = describe(commands_of(plugin), RESOURCES, routes_of(plugin))
    validate(api)
    assert set(api["paths"]) == {"/v1/commands/7001", "/v1/chatty/{number}", *OWN}
    body = api["paths"]["/v1/commands/7001"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/MessageRequest"}
    assert set(api["components"]["schemas"]["MessageRequest"]["properties"]) == {"text"}
    assert "message_id" in api["components"]["schemas"]["Message"]["properties"]
    put = api["paths"]["/v1/chatty/{number}"]["put"]
    assert (put["summary"], put["description"]) == ("Put it.", "At length.")
    assert put["parameters"] == [
        {"name": "number", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}}
    ]


# ---------------------------------------------------------------- what it says is what is taken


def values(schema):
    """Values that a schema of a request allows; it knows the keywords that those have."""
    if "anyOf" in schema:
        return st.one_of([values(one) for one in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "string" if "pattern" in schema:
            fits = st.from_regex(schema["pattern"].replace("$", r"\Z"))
            return fits.filter(lambda text: schema.get("minLength", 0) <= len(text) <= schema["maxLength"])
        case "string":
            alphabet = st.characters(codec="utf-8", exclude_categories=["Cs"])
            return st.text(alphabet, min_size=schema.get("minLength", 0), max_size=schema.get("maxLength", 100))
        case "array":
            return st.lists(values(schema["items"]), max_size=schema.get("maxItems", 20))
        case "object" if "properties" in schema:
            fields = {name: values(one) for name, one in schema["properties"].items()}
            required = {name: fields.pop(name) for name in schema.get("required", ())}
            return st.fixed_dictionaries(required, optional=fields)
        case "object":
            return st.dictionaries(st.text(max_size=5), st.none(), max_size=3)
        case other:
            raise AssertionError(f"no values are known for {other}: {schema}")


@pytest.mark.parametrize("number", [4, 1006, 1007, 1009, 2003, 2011])
def test_what_the_schema_allows_is_taken(shared_servers, described, number):
    """Bodies made from a request's schema are never refused for their form, and cost the server no fault."""
    site = Site(shared_servers(1))
    user = site.new_user()
    schema = described.operation("POST", f"/v1/commands/{number}")["requestBody"]["content"]["application/json"]["schema"]
    name = schema["$ref"].rpartition("/")[2]
    whole = json.loads(json.dumps(described.api["components"]["schemas"][name]))

    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    @given(values(whole))
    def check(body):
        answer = user.post(f"/v1/commands/{number}", body)
        cursor_of_nobody = answer.status == 400 and answer.json["field"] == "cursor"
        assert answer.status == 200 or cursor_of_nobody, (body, answer)

    check()


@pytest.mark.parametrize(
    ("number", "body"),
    [
        (1006, {"user_ids": "alice"}),
        (1006, {"user_ids": ["a/b"]}),
        (1009, {"query": ""}),
        (1009, {"query": "a", "limit": 501}),
        (2001, {"client_id": "", "body": "x", "to": "bob"}),
        (2001, {"client_id": "c", "body": "x"}),
        (2001, {"client_id": "c", "body": "x", "to": None}),
        (2001, {"client_id": "c", "body": 1, "to": "bob"}),
        (2004, {"conversation_id": "x", "seq": -1}),
        (5002, {"conversation_id": "d:a:b"}),
    ],
)
def test_what_the_schema_forbids_is_refused(described, alice, bob, number, body):
    """Both say no: the schema, and the server with 400."""
    body = {**body, "to": bob.user} if body.get("to") else body
    schema = described.operation("POST", f"/v1/commands/{number}")["requestBody"]["content"]["application/json"]["schema"]
    with pytest.raises(jsonschema.ValidationError):
        described.check(schema, body)
    alice.post(f"/v1/commands/{number}", body).refused(400, "bad_request")


def test_it_is_the_same_for_everybody(site):
    """It needs no credentials and holds nothing of the deployment's: no address, no secret."""
    described = Described(site)
    assert described.api["servers"] == [{"url": "/"}]
    assert str(site.server.data) not in json.dumps(described.api)
