// "Try it": a form for one operation, the request that it makes, and the same as a curl line.
import { copyButton, el } from "/docs/dom.js";

const JSON_TYPE = "application/json";

/** Who asks: kept here alone, so it ends with the page. */
export const who = { token: "", apiKey: "", actingFor: "" };

function identity() {
  const headers = {};
  if (who.token) headers["Authorization"] = `Bearer ${who.token}`;
  else if (who.apiKey) headers["X-API-Key"] = who.apiKey;
  if (who.actingFor && !who.token) headers["X-IM-User"] = who.actingFor;
  return headers;
}

/** The form. `operation`: {path, method, parameters, body}. */
export function tryForm(operation, schemas) {
  const inputs = operation.parameters.map((parameter) => {
    const schema = parameter.schema ?? {};
    const example = schema.examples?.[0];
    const shown = example === undefined ? "" : Array.isArray(example) ? example.join(",") : String(example);
    // What the path needs is filled in; the rest is left out until somebody wants it.
    const input = el("input", { type: "text", spellcheck: "false", autocomplete: "off", placeholder: shown || schemas.describe(schema),
      value: parameter.name === "Idempotency-Key" ? freshKey() : parameter.required ? shown : "", required: parameter.required });
    return { parameter, input };
  });
  const content = Object.entries(operation.body?.content ?? {});
  const [type, media] = content.find(([name]) => name === JSON_TYPE) ?? content[0] ?? [];
  const isJson = type === JSON_TYPE;
  const example = isJson ? JSON.stringify(schemas.example(media.schema), null, 2) : "";
  const text = isJson && el("textarea", { rows: Math.min(16, example.split("\n").length + 1), spellcheck: "false", "aria-label": "Body" });
  if (text) text.value = operation.body.required || example !== "{}" ? example : "{}";
  const file = type && !isJson ? el("input", { type: "file", "aria-label": "File" }) : null;

  const curl = el("pre", { class: "curl", tabindex: "0", "aria-label": "curl" });
  const answer = el("div", { class: "answer", role: "status" });
  const send = el("button", { class: "primary", type: "submit", text: "Send" });

  function build() {
    let path = operation.path;
    const query = new URLSearchParams();
    const headers = identity();
    for (const { parameter, input } of inputs) {
      const value = input.value;
      if (parameter.in === "path") path = path.replace(`{${parameter.name}}`, encodeURIComponent(value).replaceAll("%3A", ":"));
      else if (value === "") continue;
      else if (parameter.in === "query") query.set(parameter.name, value);
      else headers[parameter.name] = value;
    }
    let body;
    if (text && text.value.trim()) {
      headers["Content-Type"] = JSON_TYPE;
      body = text.value;
    } else if (file?.files.length) {
      headers["Content-Type"] = file.files[0].type || "application/octet-stream";
      headers["X-File-Name"] ??= encodeURIComponent(file.files[0].name);
      body = file.files[0];
    }
    const search = query.toString().replaceAll("%2C", ",");
    return { url: path + (search ? `?${search}` : ""), headers, body };
  }

  function asCurl() {
    const { url, headers, body } = build();
    const parts = ["curl"];
    if (operation.method !== "GET") parts.push("-X", operation.method);
    parts.push(quote(location.origin + url));
    const lines = [parts.join(" ")];
    for (const [name, value] of Object.entries(headers)) {
      const shown = name === "Authorization" ? "Bearer $TOKEN" : name === "X-API-Key" ? "$KEY" : null;
      lines.push(shown ? `-H "${name}: ${shown}"` : `-H ${quote(`${name}: ${value}`)}`);
    }
    if (typeof body === "string") lines.push(`-d ${quote(compact(body))}`);
    else if (body) lines.push(`--data-binary ${quote("@" + body.name)}`);
    return lines.join(" \\\n  ");
  }

  function show() {
    curl.textContent = asCurl();
  }

  async function run(event) {
    event.preventDefault();
    show();
    send.disabled = true;
    answer.replaceChildren(el("p", { class: "dim", text: "asking …" }));
    const started = performance.now();
    try {
      const { url, headers, body } = build();
      const response = await fetch(url, { method: operation.method, headers, body, credentials: "omit", cache: "no-store" });
      const kind = response.headers.get("Content-Type") ?? "";
      const blob = await response.blob();
      answer.replaceChildren(...(await shownAnswer(response, kind, blob, performance.now() - started)));
    } catch (error) {
      answer.replaceChildren(el("p", { class: "bad", text: `No answer: ${error.message}` }));
    } finally {
      send.disabled = false;
    }
  }

  const form = el("form", { class: "try", onsubmit: run, oninput: show, onfocusin: show },
    inputs.length > 0 && el("div", { class: "row" }, inputs.map(({ parameter, input }) =>
      el("label", {}, el("span", {}, parameter.name, " ", el("span", { class: "dim", text: parameter.in })), input))),
    text && el("label", { class: "body" }, el("span", { text: "Body" }), text),
    file && el("label", { class: "body" }, el("span", { text: "File" }), file),
    el("div", { class: "actions" }, send, copyButton(asCurl, "Copy curl")),
    curl, answer);
  show();
  return { form, refresh: show };
}

/** Sent again as it is, a request finds the answer of the first; another one wants another key. */
function freshKey() {
  return `docs-${Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

async function shownAnswer(response, kind, blob, took_ms) {
  const isText = /json|^text\//.test(kind);
  let text = isText ? await blob.text() : `${blob.size} bytes of ${kind || "nothing"}`;
  if (kind.includes("json")) {
    try { text = JSON.stringify(JSON.parse(text), null, 2); } catch { /* shown as it came */ }
  }
  const extra = ["Retry-After", "Allow", "ETag", "Location", "Upload-Offset"].filter((name) => response.headers.get(name));
  return [
    el("p", {}, el("b", { class: response.ok ? "good" : "bad", text: `${response.status} ${response.statusText}` }),
      el("span", { class: "dim", text: `  ${Math.round(took_ms)} ms · ${blob.size} bytes` }),
      extra.map((name) => el("span", { class: "dim", text: ` · ${name}: ${response.headers.get(name)}` }))),
    el("pre", { tabindex: "0", "aria-label": "Answer", text }),
  ];
}

function compact(text) {
  try { return JSON.stringify(JSON.parse(text)); } catch { return text; }
}

function quote(text) {
  return /^[\w./:@%?=&,+-]+$/.test(text) && !/[?&]/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
