"""The paths that no command stands behind, for /openapi.json: the server's own, and those of the plugins that come with it.

A plugin's route that is not here is described by its handler's docstring alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imserver.http.answers import BOOLEAN, FILE, INTEGER, NUMBER, STRING, TIME, Schema, fields, many, nullable, ref

_USER_ID: Schema = {"type": "string", "minLength": 1, "maxLength": 64, "pattern": r"^[A-Za-z0-9_.@-]+$"}
_SESSION_ID: Schema = {"type": "string", "minLength": 1, "maxLength": 64}
_LIMIT: Schema = {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}
_VERSION: Schema = {"type": "string", "description": "of the server"}
_BYTES: Schema = {"type": "string", "contentMediaType": "application/octet-stream"}


def _query(name: str, schema: Schema, description: str = "") -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, **({"description": description} if description else {})}


def _header(name: str, schema: Schema, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "schema": schema, "description": description}


def _json_body(schema: Schema, *, required: bool = True) -> dict[str, Any]:
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def _bytes_body(*types: str) -> dict[str, Any]:
    return {"required": False, "content": {type_: {"schema": _BYTES} for type_ in types}}


def _answer(schema: Schema, description: str = "done", content_type: str = "application/json") -> dict[str, Any]:
    return {"description": description, "content": {content_type: {"schema": schema}}}


_CONFLICT: Mapping[str, Any] = {"anyOf": [ref("Error"), {"allOf": [ref("Error"), fields(offset=INTEGER)]}]}
_ADMIN_USER: Schema = fields(
    user_id=STRING,
    nickname=STRING,
    created_at=TIME,
    disabled=BOOLEAN,
    roles=many(STRING),
    online={"type": "integer", "description": "live connections"},
)
_FILE_HEADERS = (
    _header("X-File-Name", {"type": "string", "pattern": "^[!-~]*$"}, "the name, in percent-encoded UTF-8"),
    _header("X-Content-SHA256", {"type": "string", "pattern": "^[0-9a-f]{64}$"}, "refused if something else arrives"),
)
_STATS: Schema = fields(
    server={"type": "string", "description": "the server's name"},
    node=INTEGER,
    version=_VERSION,
    started_at=TIME,
    time=TIME,
    connections=INTEGER,
    users_online=INTEGER,
    messages={"type": "integer", "description": "stored since the start"},
    commits=INTEGER,
    commit_failures=INTEGER,
    commit_ms=fields(p50=nullable(NUMBER), p99=nullable(NUMBER), max=nullable(NUMBER)),
    shards=many(
        fields(index=INTEGER, sessions=INTEGER, http_connections=INTEGER, requests=INTEGER, lag_ms=nullable(NUMBER))
    ),
    commands=many(
        fields(
            command=INTEGER,
            name=STRING,
            requests=INTEGER,
            errors={"type": "object", "additionalProperties": INTEGER},
        )
    ),
    certificate_expires_at=nullable(TIME),
)

#: (method, path) -> what is known of a plugin's route beyond its docstring; the answer's schema is without `code`.
ROUTES: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("POST", "/v1/files"): {
        "parameters": [
            _query("resumable", {"type": "string", "enum": ["0", "1"]}, "1: in several requests; needs Upload-Length"),
            *_FILE_HEADERS,
            _header("Upload-Length", INTEGER, "bytes of the whole file, for an upload in several requests"),
        ],
        "requestBody": _bytes_body("application/octet-stream", "image/png", "multipart/form-data"),
        "answer": {"anyOf": [ref("File"), ref("Upload")]},
    },
    ("PATCH", "/v1/files/{file_id}"): {
        "parameters": [
            _header("Upload-Offset", {"type": "integer", "minimum": 0}, "where these bytes begin; or Content-Range"),
            _header("Content-Range", STRING, "bytes FIRST-LAST/TOTAL"),
        ],
        "requestBody": _bytes_body("application/octet-stream"),
        "answer": {"anyOf": [ref("File"), ref("Upload")]},
        "responses": {"409": _answer(_CONFLICT, "the upload stands elsewhere: `offset` says where")},
    },
    ("GET", "/v1/files/{file_id}"): {
        "parameters": [
            _header("Range", {"type": "string", "examples": ["bytes=0-1023"]}, "one range"),
            _header("If-None-Match", STRING, "an ETag: 304 if the file still has it"),
        ],
        "responses": {
            "200": _answer(_BYTES, "the file", "*/*"),
            "206": _answer(_BYTES, "the range that was asked for", "*/*"),
            "304": {"description": "the client has it"},
            "416": {"description": "there is no such range"},
        },
    },
    ("GET", "/v1/files"): {
        "parameters": [_query("limit", _LIMIT), _query("cursor", STRING)],
        "answer": fields(
            files=many(fields(**FILE, is_held=BOOLEAN)),
            used=INTEGER,
            quota=INTEGER,
            max_size=INTEGER,
            next_cursor_=STRING,
        ),
    },
    ("DELETE", "/v1/files/{file_id}"): {"answer": fields()},
    ("GET", "/v1/admin/stats"): {"answer": _STATS},
    ("GET", "/v1/admin/config"): {"answer": fields(file=nullable(STRING), config={"type": "object"})},
    ("GET", "/v1/admin/plugins"): {"answer": fields(plugins=many({"type": "object"}))},
    ("GET", "/v1/admin/users"): {
        "parameters": [
            _query("query", {"type": "string", "maxLength": 64}, "a part of the user id or the nickname"),
            _query("limit", _LIMIT),
            _query("cursor", {"type": "string", "maxLength": 64}),
        ],
        "answer": fields(users=many(_ADMIN_USER), next_cursor_=STRING),
    },
    ("GET", "/v1/admin/users/{user_id}/sessions"): {"answer": fields(sessions=many(ref("Device")))},
    ("POST", "/v1/admin/users/{user_id}/disable"): {
        "requestBody": _json_body(fields(disabled=BOOLEAN)),
        "answer": fields(user_id=STRING, disabled=BOOLEAN),
    },
    ("POST", "/v1/admin/users/{user_id}/kick"): {
        "requestBody": _json_body(fields(session_id_=nullable(_SESSION_ID)), required=False),
        "answer": fields(user_id=STRING, ended=INTEGER),
    },
    ("POST", "/v1/admin/users/{user_id}/role"): {
        "requestBody": _json_body(fields(role={"type": "string", "pattern": "^[a-z][a-z0-9_-]{0,31}$"}, present=BOOLEAN)),
        "answer": fields(user_id=STRING, roles=many(STRING)),
    },
}

_TEXT = "text/plain"
#: The server's own paths, all by GET.
OWN: Mapping[str, Mapping[str, Any]] = {
    "/v1/discover": {
        "summary": "Where this client should connect.",
        "responses": {
            "200": _answer(
                fields(
                    code={"type": "integer", "const": 0},
                    endpoints=fields(http=STRING, ws=STRING, tcp_=STRING),
                    tls=BOOLEAN,
                    node=INTEGER,
                    name=STRING,
                    version=_VERSION,
                )
            )
        },
    },
    "/healthz": {
        "summary": "It is alive; each check's state.",
        "responses": {"200": _answer(fields(status=STRING, checks={"type": "object", "additionalProperties": STRING}))},
    },
    "/livez": {"summary": "It is alive.", "responses": {"200": _answer(STRING, "alive", _TEXT)}},
    "/readyz": {
        "summary": "It takes requests.",
        "responses": {
            "200": _answer(STRING, "ready", _TEXT),
            "503": _answer(STRING, "not now: the text names what fails", _TEXT),
        },
    },
    "/metrics": {"summary": "Figures for Prometheus.", "responses": {"200": _answer(STRING, "figures", _TEXT)}},
    "/openapi.json": {
        "summary": "This description.",
        "responses": {"200": _answer({"type": "object"}, "OpenAPI 3.1")},
    },
}


def parameter_schema(name: str, kind: str) -> Schema:
    """The schema of a parameter in a path that no command's class knows."""
    if kind == "int":
        return {"type": "integer", "minimum": 0}
    return _USER_ID if name == "user_id" else STRING


__all__: Sequence[str] = ("OWN", "ROUTES", "parameter_schema")
