// The documentation of the HTTP API: /openapi.json, which this server makes of its own commands, for people.
import { el, prose } from "/docs/dom.js";
import { tryForm, who } from "/docs/request.js";
import { Schemas } from "/docs/schema.js";

const $ = (id) => document.getElementById(id);
const ORDER = ["get", "head", "post", "put", "patch", "delete"];
const THEMES = ["", "light", "dark"];

const operations = [];
let schemas;
let commonResponses;

main();

async function main() {
  theme();
  identity();
  $("menu").addEventListener("click", () => toggleMenu());
  try {
    const response = await fetch("/openapi.json");
    if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
    render(await response.json());
  } catch (error) {
    $("operations").replaceChildren(el("p", { class: "bad", role: "alert", text: `/openapi.json could not be read: ${error.message}` }));
    return;
  }
  $("find").addEventListener("input", search);
  document.addEventListener("keydown", keys);
  addEventListener("hashchange", openTarget);
  openTarget();
}

// ---------------------------------------------------------------- the page

function render(api) {
  document.title = `${api.info.title} HTTP API`;
  $("title").textContent = api.info.title;
  $("version").textContent = api.info.version;
  $("about").textContent = api.info.description;
  schemas = new Schemas(api.components.schemas);
  commonResponses = api.components.responses ?? {};
  for (const [path, item] of Object.entries(api.paths)) {
    for (const method of ORDER) if (item[method]) operations.push(read(path, method, item[method]));
  }
  const groups = api.tags.map((tag) => ({ ...tag, operations: operations.filter((one) => one.tag === tag.name) }));
  $("operations").replaceChildren(...groups.map(group));
  $("index").replaceChildren(...groups.map(indexGroup));
  search();
}

function read(path, method, raw) {
  const operation = {
    id: raw.operationId, path, method: method.toUpperCase(), tag: raw.tags[0], summary: raw.summary ?? "", description: raw.description ?? "",
    parameters: raw.parameters ?? [], body: raw.requestBody, responses: raw.responses, isOpen: (raw.security ?? [{}]).some((one) => !Object.keys(one).length),
  };
  const fields = Object.values(operation.body?.content ?? {}).flatMap(({ schema }) => Object.keys(schemas.resolve(schema).schema.properties ?? {}));
  operation.words = [method, path, operation.summary, operation.description, operation.tag, ...operation.parameters.map((one) => one.name), ...fields].join(" ").toLowerCase();
  return operation;
}

function group(tag) {
  tag.node = el("section", { class: "group", "aria-label": tag.description },
    el("h2", {}, tag.description, " ", el("small", { class: "dim", text: tag.name })),
    tag.operations.map(card));
  return tag.node;
}

function indexGroup(tag) {
  tag.index = el("section", {}, el("h3", { text: tag.description }), el("ul", {}, tag.operations.map((operation) => {
    operation.link = el("li", {}, el("a", { href: `#${operation.id}`, title: operation.summary, onclick: () => toggleMenu(false) },
      badge(operation), el("span", { text: shortName(operation) })));
    return operation.link;
  })));
  for (const operation of tag.operations) operation.group = tag;
  return tag.index;
}

/** Of a command its number and name: a list of bare numbers would help nobody. */
function shortName(operation) {
  const name = /^\/v1\/commands\/\d+$/.test(operation.path) && /^(\d+ \w+):/.exec(operation.summary);
  return name ? `commands/${name[1]}` : operation.path;
}

const badge = (operation) => el("span", { class: `method ${operation.method.toLowerCase()}`, text: operation.method });

function card(operation) {
  const inside = el("div", { class: "inside" });
  operation.node = el("details", { class: "operation", id: operation.id },
    el("summary", {}, badge(operation), el("code", { class: "path", text: operation.path }),
      el("span", { class: "summary", text: operation.summary }), !operation.isOpen && el("span", { class: "lock", title: "needs a token or an API key", text: "token" })),
    inside);
  // What stands inside is made when it is first opened.
  operation.node.addEventListener("toggle", () => {
    if (!operation.node.open) return;
    if (inside.childElementCount) operation.refresh();
    else inside.append(...contents(operation));
  });
  return operation.node;
}

function contents(operation) {
  const parts = [];
  if (operation.description) parts.push(el("p", {}, prose(operation.description)));
  if (operation.parameters.length) {
    parts.push(el("h3", { text: "Parameters" }), el("ul", { class: "fields" }, operation.parameters.map((one) => el("li", {},
      el("div", { class: "field" }, el("code", { class: "name", text: one.name }), el("span", { class: one.required ? "need" : "dim", text: one.required ? "required" : "optional" }),
        el("span", { class: "dim", text: `in the ${one.in}` }), el("span", { class: "type", text: schemas.describe(one.schema ?? {}) })),
      (one.description ?? one.schema?.description) && el("p", {}, prose(one.description ?? one.schema.description))))));
  }
  const bodies = Object.entries(operation.body?.content ?? {});
  if (bodies.length) {
    const [type, { schema }] = bodies[0];
    parts.push(el("h3", {}, "Body ", el("small", { class: "dim", text: bodies.map(([name]) => name).join(", ") })));
    const table = schemas.table(schema);
    if (table) parts.push(table);
    else parts.push(el("p", { class: "dim", text: type.endsWith("json") ? "An empty object, or nothing." : "The bytes themselves." }));
  }
  parts.push(el("h3", { text: "Answers" }), answers(operation));
  const { form, refresh } = tryForm(operation, schemas);
  operation.refresh = refresh;
  parts.push(el("h3", { text: "Try it" }), form);
  return parts;
}

function answers(operation) {
  const all = Object.entries(operation.responses).map(([status, one]) => [status, one.$ref ? commonResponses[one.$ref.split("/").pop()] : one]);
  const good = all.filter(([status]) => status < "400");
  const bad = all.filter(([status]) => status >= "400");
  return el("div", {},
    good.map(([status, response]) => {
      const [type, media] = Object.entries(response.content ?? {})[0] ?? ["", {}];
      const table = media.schema && schemas.table(media.schema, 0, true);
      return el("div", { class: "status" }, el("p", {}, el("b", { class: "good", text: status }), " ", response.description, " ", el("small", { class: "dim", text: type })),
        table && el("details", {}, el("summary", { text: "fields" }), table),
        type.endsWith("json") && el("details", {}, el("summary", { text: "example" }), el("pre", { tabindex: "0", text: JSON.stringify(schemas.example(media.schema), null, 2) })));
    }),
    bad.length > 0 && el("details", {}, el("summary", { text: `errors: ${bad.map(([status]) => status).join(", ")}` }),
      el("ul", { class: "errors" }, bad.map(([status, response]) => el("li", {}, el("b", { class: "bad", text: status }), " ", response.description)))));
}

// ---------------------------------------------------------------- finding

function search() {
  const words = $("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  const shown = new Set();
  for (const operation of operations) {
    const isFound = words.every((word) => operation.words.includes(word));
    operation.node.hidden = operation.link.hidden = !isFound;
    if (isFound) {
      count += 1;
      shown.add(operation.group);
    }
  }
  for (const tag of new Set(operations.map((one) => one.group))) tag.node.hidden = tag.index.hidden = !shown.has(tag);
  $("found").textContent = words.length ? `${count} of ${operations.length}` : `${operations.length} operations`;
}

function keys(event) {
  const isTyping = event.target.closest("input, textarea, select");
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    toggleMenu(true);
    $("find").focus();
  } else if (event.key === "Escape" && event.target === $("find")) {
    $("find").value = "";
    search();
    toggleMenu(false);
  } else if (event.key === "Enter" && event.target === $("find")) {
    const first = operations.find((one) => !one.node.hidden);
    if (first) {
      toggleMenu(false);
      location.hash = first.id;
      openTarget();
    }
  }
}

function openTarget() {
  const operation = operations.find((one) => one.id === decodeURIComponent(location.hash.slice(1)));
  if (!operation) return;
  for (const one of operations) one.link.classList.toggle("here", one === operation);
  operation.node.open = true;
  operation.node.scrollIntoView({ block: "start" });
  operation.node.querySelector("summary").focus({ preventScroll: true });
}

function toggleMenu(isOpen = !document.body.classList.contains("menu")) {
  document.body.classList.toggle("menu", isOpen);
  $("menu").setAttribute("aria-expanded", String(isOpen));
}

// ---------------------------------------------------------------- who asks, and the look

function identity() {
  const read = () => {
    who.token = $("token").value.trim();
    who.apiKey = $("api-key").value.trim();
    who.actingFor = $("acting-for").value.trim();
    const asks = who.token ? "a user's token" : who.apiKey ? `an API key${who.actingFor ? `, for ${who.actingFor}` : ""}` : "nobody yet";
    $("who-state").textContent = asks;
    $("who-state").classList.toggle("good", Boolean(who.token || who.apiKey));
    for (const operation of operations) if (operation.node.open) operation.refresh?.();
  };
  $("who").addEventListener("input", read);
  $("who").addEventListener("submit", async (event) => {
    event.preventDefault();
    $("who-error").textContent = "";
    if (!$("password").value) return read();
    try {
      const body = JSON.stringify({ user_id: $("user").value, password: $("password").value, platform: "docs" });
      const response = await fetch("/v1/sessions", { method: "POST", headers: { "Content-Type": "application/json" }, body, credentials: "omit" });
      const answer = await response.json();
      if (!response.ok) throw new Error(answer.message);
      $("token").value = answer.token;
      $("password").value = "";
      read();
      $("who-state").textContent = `${answer.user_id}, by a token of this moment`;
    } catch (error) {
      $("who-error").textContent = error.message;
    }
  });
}

function theme() {
  let chosen = 0;
  $("theme").addEventListener("click", () => {
    const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
    // The first click always changes something.
    chosen = chosen ? 3 - chosen : isDark ? 1 : 2;
    document.documentElement.dataset.theme = THEMES[chosen];
  });
}
