"""/openapi.json: OpenAPI 3.1 out of the command table's request classes, the resource paths and the plugins' routes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

import imserver
from imserver.commands import Command, Route
from imserver.http.answers import ANSWERS, BOUNDS, COMPONENTS, TOGETHER, Schema
from imserver.http.described import OWN, ROUTES, parameter_schema
from imserver.http.fields import explain
from imserver.http.resources import Resource
from imserver.plugin import ANYONE

_REF = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"{(\w+)(?::(\w+))?}")
_ERROR: Schema = {
    "type": "object",
    "required": ["code", "error", "message"],
    "properties": {
        "code": {"type": "integer", "description": "the HTTP status"},
        "error": {"type": "string", "description": "a stable name"},
        "message": {"type": "string", "description": "for a person"},
        "field": {"type": "string", "description": "what is wrong in the request"},
        "retry_after_ms": {"type": "integer", "description": "when it makes sense to try again"},
    },
}
_CODE: Schema = {"type": "integer", "const": 0}
_ERRORS = {
    "400": "the request misses a field, or one has the wrong type or range",
    "401": "no credentials, or wrong ones",
    "403": "not allowed",
    "404": "there is no such thing",
    "405": "not by this method",
    "408": "the request took too long to come",
    "409": "it exists, or the state does not allow it",
    "413": "over a limit",
    "415": "the body is no JSON",
    "429": "too many requests; `retry_after_ms` and the header Retry-After say when again",
    "431": "the address or the headers are too long",
    "500": "a fault of the server's",
    "503": "overloaded, draining, or the disk is down; `retry_after_ms` and the header Retry-After say when again",
    "504": "past the deadline",
}


_UNREAD = frozenset({"400", "408", "431"})
_TAGS = {
    "user": "Users, sessions and devices",
    "message": "Messages and conversations",
    "search": "Finding messages",
    "friend": "Friends and blocked users",
    "group": "Groups",
    "file": "Files that messages name",
    "push": "What devices have confirmed",
    "admin": "For administrators",
    "connection": "What every connection understands",
    "server": "The server itself",
}


def describe(commands: Iterable[Command], resources: Sequence[Resource], routes: Sequence[Route]) -> dict[str, Any]:
    """The description of this server's API.

    Args:
        commands: all that there are.
        resources: paths that stand for commands; those of commands that there are not are left out.
        routes: of the plugins.
    """
    rows = {row.command_id: row for row in commands}
    schemas = _Schemas([row.request for row in rows.values() if row.request is not None])
    paths: dict[str, dict[str, Any]] = {}
    for resource in resources:
        row = rows.get(resource.command_id)
        if row is not None:
            _add(paths, resource.path, resource.method, _of_resource(resource, row, schemas))
    for row in rows.values():
        _add(paths, f"/v1/commands/{row.command_id}", "POST", _of_command(row, schemas))
    for route in routes:
        _add(paths, route.path, route.method, _of_route(route))
    for path, own in OWN.items():
        _add(paths, path, "GET", {"tags": ["server"], "security": [{}], **own})
    owners = dict.fromkeys(tag for path in paths.values() for operation in path.values() for tag in operation["tags"])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "imserver",
            "version": imserver.__version__,
            "description": "Every command of the wire protocol over HTTP. The status is the error code, 200 for success.",
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": owner, "description": _TAGS.get(owner, f"of the plugin {owner}")} for owner in owners],
        "paths": paths,
        "components": {
            "schemas": {**schemas.by_name, **explain({**COMPONENTS, "Error": _ERROR})},
            "responses": _refusals(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "a user's access token"},
                "apiKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-API-Key",
                    "description": "a back end's key; X-IM-User says which user it acts for",
                },
            },
        },
    }


class _Schemas:
    """The schemas of the requests' classes."""

    def __init__(self, classes: Sequence[type]) -> None:
        distinct = list(dict.fromkeys(classes))
        references, schemas = msgspec.json.schema_components(distinct, ref_template=_REF)
        by_name: dict[str, Any] = {}
        for name, schema in schemas.items():
            by_name[_own_name(name)] = _refined(name, _renamed(explain(schema)))
        self.by_name: Mapping[str, Any] = by_name
        self._references = {cls: _renamed(reference) for cls, reference in zip(distinct, references, strict=True)}

    def reference(self, request: type | None) -> Schema:
        """How a request's class is named."""
        return {"type": "object"} if request is None else self._references[request]

    def schema(self, request: type | None) -> Mapping[str, Any]:
        """A request's class itself."""
        reference = self.reference(request)
        name = str(reference.get("$ref", "")).rpartition("/")[2]
        return self.by_name[name] if name else reference


def _own_name(name: str) -> str:
    return f"{name}Request" if name in COMPONENTS or name == "Error" else name


def _renamed(schema: Any) -> Any:
    """A plugin's class may be called as one of ours."""
    if isinstance(schema, list):
        return [_renamed(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    renamed = {key: _renamed(value) for key, value in schema.items()}
    if isinstance(renamed.get("$ref"), str):
        renamed["$ref"] = _REF.format(name=_own_name(renamed["$ref"].rpartition("/")[2]))
    return renamed


def _refined(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties", {})
    for field, bounds in BOUNDS.get(name, {}).items():
        properties[field] = {**properties[field], **bounds}
    # A class's docstring begins with its command's number, which stands elsewhere.
    description = re.sub(r"^\d+[.:]?\s*", "", schema.pop("description", ""))
    return {**schema, **({"description": description} if description else {}), **TOGETHER.get(name, {})}


def _add(paths: dict[str, dict[str, Any]], path: str, method: str, operation: dict[str, Any]) -> None:
    shown = _PARAMETER.sub(r"{\1}", path)
    own = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "path"}
    operation["parameters"] = [
        {"name": name, "in": "path", "required": True, "schema": parameter_schema(name, kind)}
        for name, kind in _PARAMETER.findall(path)
        if name not in own
    ] + list(operation.get("parameters", ()))
    operation["operationId"] = f"{method.lower()}{re.sub('[^A-Za-z0-9]+', '_', shown).rstrip('_')}"
    paths.setdefault(shown, {})[method.lower()] = operation


def _summary(handler: Any) -> dict[str, str]:
    summary, _, rest = (inspect.getdoc(handler) or "").partition("\n")
    described = {"summary": summary}
    if rest.strip():
        described["description"] = rest.strip()
    return described


def _operation(handler: Any, owner: str, allow: str, answer: Schema | None) -> dict[str, Any]:
    operation: dict[str, Any] = {**_summary(handler), "tags": [owner], "responses": _responses(answer)}
    operation["security"] = [{}] if allow == ANYONE else [{"bearer": []}, {"apiKey": []}]
    if allow.startswith("role:"):
        operation["description"] = f"{operation.get('description', '')} Needs the role {allow[5:]}.".strip()
    return operation


def _responses(answer: Schema | None) -> dict[str, Any]:
    success = {"description": "done", "content": {"application/json": {"schema": _success(answer)}}}
    return {"200": success} | {status: {"$ref": f"#/components/responses/{status}"} for status in _ERRORS}


def _refusals() -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _REF.format(name="Error")}}}
    # A request that could not be read has no path yet, so nobody knows that it was one to the API.
    unread = {**content, "text/plain": {"schema": {"type": "string"}}}
    return {
        status: {"description": text, "content": unread if status in _UNREAD else content}
        for status, text in _ERRORS.items()
    }


def _success(answer: Schema | None) -> Schema:
    """An answer with its code; None: nobody has said what is in it."""
    code: dict[str, Any] = {"type": "object", "required": ["code"], "properties": {"code": _CODE}}
    if answer is None:
        return code
    if "properties" not in answer:
        return {"allOf": [code, explain(answer)]}
    properties = {**code["properties"], **explain(answer["properties"])}
    explained: Schema = explain({**answer, "properties": properties, "required": ["code", *answer.get("required", ())]})
    return explained


def _body(schema: Mapping[str, Any], *, required: bool) -> dict[str, Any]:
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def _of_command(row: Command, schemas: _Schemas) -> dict[str, Any]:
    operation = _operation(row.handler, row.owner, row.allow, ANSWERS.get(row.command_id))
    operation["summary"] = f"{row.command_id} {row.name}: {operation['summary']}"
    needs_body = bool(schemas.schema(row.request).get("required") or "anyOf" in schemas.schema(row.request))
    operation["requestBody"] = _body(schemas.reference(row.request), required=needs_body)
    return operation


def _of_resource(resource: Resource, row: Command, schemas: _Schemas) -> dict[str, Any]:
    schema = schemas.schema(row.request)
    operation = _operation(row.handler, row.owner, row.allow, ANSWERS.get(row.command_id))
    operation["summary"] = f"{operation['summary']} ({row.command_id} {row.name})"
    properties: Mapping[str, Any] = schema.get("properties", {})
    required = schema.get("required", [])
    in_path = [name for name, _ in _PARAMETER.findall(resource.path)]
    operation["parameters"] = [_in_path(name, properties[name]) for name in in_path if name in properties]
    operation["parameters"] += [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "schema": _without_null(properties.get(name, {"type": "string"})),
            **({"style": "form", "explode": False} if name.endswith("_ids") else {}),
        }
        for name in resource.query
    ]
    if resource.has_body:
        taken = {*resource.query, *resource.fixed, *in_path}
        needed = [name for name in required if name not in taken]
        together = {key: schema[key] for key in ("anyOf", "if", "then") if key in schema and not taken & {"conversation_id"}}
        if row.name == "SEND":
            needed.remove("client_id")
            operation["parameters"].append(_idempotency_key())
        rest = {name: property_ for name, property_ in properties.items() if name not in taken}
        body = {"type": "object", "properties": rest, **({"required": needed} if needed else {}), **together}
        operation["requestBody"] = _body(body, required=bool(needed))
    return operation


def _in_path(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": _without_null(schema)}


def _without_null(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """In an address there is no null: what may be left out is left out."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) != 1:
        return schema
    return {**{key: value for key, value in schema.items() if key not in ("anyOf", "default")}, **choices[0]}


def _idempotency_key() -> dict[str, Any]:
    return {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "serves as client_id, one of which is needed: the same again gets the first message's answer",
        "schema": {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[!-~]+$", "examples": ["order-4711"]},
    }


def _of_route(route: Route) -> dict[str, Any]:
    known = dict(ROUTES.get((route.method, route.path), {}))
    operation = _operation(route.handler, route.owner, route.allow, known.pop("answer", None))
    operation["responses"] |= known.pop("responses", {})
    return {**operation, **explain(known)}
