"""/openapi.json: OpenAPI 3.1 out of the command table's request classes, the resource paths and the plugins' routes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

import imserver
from imserver.commands import Command, Route
from imserver.http.resources import Resource
from imserver.plugin import ANYONE

_REF = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"{(\w+)(?::(\w+))?}")
_ERROR = {
    "type": "object",
    "required": ["code", "error", "message"],
    "properties": {
        "code": {"type": "integer", "description": "the HTTP status"},
        "error": {"type": "string", "description": "a stable name"},
        "message": {"type": "string", "description": "for a person"},
        "field": {"type": "string", "description": "what is wrong in the request"},
        "retry_after_ms": {"type": "integer"},
    },
}
_SUCCESS = {
    "type": "object",
    "required": ["code"],
    "properties": {"code": {"const": 0}},
    "additionalProperties": True,
    "description": "code 0 and the command's own fields; see the reference of commands",
}
_ERRORS = {
    "400": "the request misses a field, or one has the wrong type or range",
    "401": "no credentials, or wrong ones",
    "403": "not allowed",
    "404": "there is no such thing",
    "405": "not by this method",
    "409": "it exists, or the state does not allow it",
    "413": "over a limit",
    "415": "the body is no JSON",
    "429": "too many requests",
    "500": "a fault of the server's",
    "503": "overloaded, draining, or the disk is down",
    "504": "past the deadline",
}


def describe(commands: Iterable[Command], resources: Sequence[Resource], routes: Sequence[Route]) -> dict[str, Any]:
    """The description of this server's API.

    Args:
        commands: all that there are.
        resources: paths that stand for commands; those of commands that there are not are left out.
        routes: of the plugins.
    """
    rows = {row.command_id: row for row in commands}
    classes = list({row.request for row in rows.values() if row.request is not None})
    references, schemas = msgspec.json.schema_components(classes, ref_template=_REF)
    by_class: dict[type, dict[str, Any]] = dict(zip(classes, references, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for resource in resources:
        row = rows.get(resource.command_id)
        if row is not None:
            schema = _resolved(by_class, schemas, row)
            _add(paths, resource.path, resource.method, _of_resource(resource, row, schema))
    for row in rows.values():
        body = None if row.request is None else by_class[row.request]
        _add(paths, f"/v1/commands/{row.command_id}", "POST", _of_command(row, body))
    for route in routes:
        _add(paths, route.path, route.method, _of_route(route))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "imserver",
            "version": imserver.__version__,
            "description": "Every command of the wire protocol over HTTP. The status is the error code, 200 for success.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Error": _ERROR, "Success": _SUCCESS},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "a user's access token"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "a back end's key"},
            },
        },
    }


def _add(paths: dict[str, dict[str, Any]], path: str, method: str, operation: dict[str, Any]) -> None:
    shown = _PARAMETER.sub(r"{\1}", path)
    operation["parameters"] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "integer" if kind == "int" else "string"}}
        for name, kind in _PARAMETER.findall(path)
    ] + operation.get("parameters", [])
    operation["operationId"] = f"{method.lower()}{re.sub('[^A-Za-z0-9]+', '_', shown).rstrip('_')}"
    paths.setdefault(shown, {})[method.lower()] = operation


def _resolved(by_class: Mapping[type, dict[str, Any]], schemas: Mapping[str, Any], row: Command) -> dict[str, Any]:
    """The schema of a command's request itself."""
    if row.request is None:
        return {"type": "object", "properties": {}}
    reference = by_class[row.request].get("$ref", "")
    found: dict[str, Any] = schemas[reference.rpartition("/")[2]] if reference else by_class[row.request]
    return found


def _summary(handler: Any) -> dict[str, str]:
    summary, _, rest = (inspect.getdoc(handler) or "").partition("\n")
    described = {"summary": summary}
    if rest.strip():
        described["description"] = rest.strip()
    return described


def _operation(handler: Any, owner: str, allow: str) -> dict[str, Any]:
    operation: dict[str, Any] = {**_summary(handler), "tags": [owner], "responses": _responses()}
    if allow != ANYONE:
        operation["security"] = [{"bearer": []}, {"apiKey": []}]
    if allow.startswith("role:"):
        operation["description"] = f"{operation.get('description', '')} Needs the role {allow[5:]}.".strip()
    return operation


def _responses() -> dict[str, Any]:
    success = {"description": "done", "content": {"application/json": {"schema": {"$ref": _REF.format(name="Success")}}}}
    content = {"application/json": {"schema": {"$ref": _REF.format(name="Error")}}}
    return {"200": success} | {status: {"description": text, "content": content} for status, text in _ERRORS.items()}


def _body(schema: Mapping[str, Any], *, required: bool) -> dict[str, Any]:
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def _of_command(row: Command, body: Mapping[str, Any] | None) -> dict[str, Any]:
    operation = _operation(row.handler, row.owner, row.allow)
    operation["summary"] = f"{row.command_id} {row.name}: {operation['summary']}"
    operation["requestBody"] = _body(body or {"type": "object"}, required=body is not None)
    if row.name == "SEND":
        operation["parameters"] = [_idempotency_key()]
    return operation


def _of_resource(resource: Resource, row: Command, schema: Mapping[str, Any]) -> dict[str, Any]:
    operation = _operation(row.handler, row.owner, row.allow)
    operation["summary"] = f"{operation['summary']} ({row.command_id} {row.name})"
    properties: Mapping[str, Any] = schema.get("properties", {})
    required = schema.get("required", [])
    operation["parameters"] = [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "schema": properties.get(name, {"type": "string"}),
            **({"style": "form", "explode": False} if name.endswith("_ids") else {}),
        }
        for name in resource.query
    ]
    taken = {*resource.query, *resource.fixed, *(name for name, _ in _PARAMETER.findall(resource.path))}
    if resource.has_body:
        rest = {name: property_ for name, property_ in properties.items() if name not in taken}
        needed = [name for name in required if name not in taken]
        if row.name == "SEND":
            needed = [name for name in needed if name != "client_id"]  # Idempotency-Key serves, too
            operation["parameters"].append(_idempotency_key())
        body: dict[str, Any] = {"type": "object", "properties": rest}
        if needed:
            body["required"] = needed
        operation["requestBody"] = _body(body, required=bool(needed))
    return operation


def _idempotency_key() -> dict[str, Any]:
    return {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "serves as client_id: the same key again gets the first message's answer",
        "schema": {"type": "string", "minLength": 1, "maxLength": 64},
    }


def _of_route(route: Route) -> dict[str, Any]:
    return _operation(route.handler, route.owner, route.allow)
