// Unit tests of how the page shows messages, against the least of a document. Run by test_client_js.py, or:
// PAGE_MODULES=… node --test page_unit.test.mjs, where the modules name each other by relative paths.
import assert from "node:assert/strict";
import { test } from "node:test";

globalThis.Node = class {
  constructor(tag) { Object.assign(this, { tag, children: [], dataset: {}, style: {}, attributes: {} }); }
  append(...more) { this.children.push(...more); }
  replaceChildren(...more) { this.children = more; }
  addEventListener() {}
  setAttribute(name, value) { this.attributes[name] = value; }
  querySelector() { return this; }
  get text() { return this.children.map((child) => child.text ?? child).join(""); }
};
globalThis.addEventListener = () => {};
globalThis.document = { createElement: (tag) => new Node(tag), createElementNS: (_space, tag) => new Node(tag), createTextNode: (text) => Object.assign(new Node("#text"), { children: [text] }) };

const modules = process.env.PAGE_MODULES;
const { bubble } = await import(`${modules}/bubble.mjs`);
const { dateTime, fileSize, t } = await import(`${modules}/i18n.mjs`);
const { summary } = await import(`${modules}/text.mjs`);

const chat = { me: "me", name: (id) => { assert.equal(typeof id, "string"); return id; }, called: (id) => { assert.equal(typeof id, "string"); return id; }, features: {},
  media: { url: () => new Promise(() => {}) } };
const from = (sender, type, body) => ({ conversation_id: "d:mallory:me", seq: 1, rev: 1, message_id: "m", client_id: "c", from: sender, sent_at: 1000, type, body });
const draw = (message) => bubble(chat, { message, isFirst: true, isLast: true, isGroup: true }, { onMenu() {}, onQuote() {}, quoteOf: () => null });

const STUBBORN = { toString: 1, valueOf: 1 }; // JSON can say it, and String() of it throws
const VALUES = [null, true, 0, -1, 1e300, "", "x", "constructor", "__proto__", [], [null, {}, STUBBORN], {}, STUBBORN];
const EVENTS = ["created", "joined", "left", "removed", "dismissed", "role", "muted", "updated", "constructor", STUBBORN, 5];
const FIELDS = ["by", "user_ids", "name", "role", "muted_until", "announcement", "join", "muted", "avatar", "history", "text"];
const TYPES = ["system", "text", "image", "file", "audio", "video", "custom", "constructor", "__proto__"];

test("no body of any message makes the page throw", () => {
  const bodies = [...VALUES, [STUBBORN]];
  for (const value of VALUES) {
    for (const event of EVENTS) for (const field of FIELDS) bodies.push({ event, [field]: value });
    for (const field of ["name", "size", "type", "width", "height", "file_id"]) bodies.push({ file_id: "f", type: "image/png", width: 5, height: 5, [field]: value });
  }
  let count = 0;
  for (const body of bodies) for (const type of TYPES) for (const sender of ["", "mallory"]) {
    const message = from(sender, type, body);
    assert.equal(typeof summary(message, chat), "string", JSON.stringify(message));
    assert.ok(draw(message) instanceof Node, JSON.stringify(message));
    count += 1;
  }
  assert.ok(count > 20_000);
});

test("a line of the server's is drawn where the server says it alone; a user's message of that type has its sender", () => {
  const body = { event: "removed", by: "mallory", user_ids: ["me"] };
  assert.match(draw(from("", "system", body)).className, /row-system/);
  assert.equal(summary(from("", "system", body), chat), "mallory removed me");
  for (const forged of [body, "Your account is suspended"]) {
    const row = draw(from("mallory", "system", forged));
    assert.doesNotMatch(row.className, /row-system/);
    assert.match(row.text, /mallory/);
  }
  assert.doesNotMatch(summary(from("mallory", "system", body), chat), /removed/);
});

test("what is no time, no number and no key is no text", () => {
  for (const value of VALUES.filter((one) => typeof one !== "number")) {
    assert.equal(dateTime(value), "");
    assert.equal(fileSize(value), "");
    if (typeof value !== "string") assert.equal(t(value), "");
  }
  assert.equal(dateTime(1e300), "");
  assert.notEqual(dateTime(0), "");
  assert.equal(t("constructor"), "constructor");
});
