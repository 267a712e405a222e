// Unit tests of the page's emitter.js, without a page. Run by test_client_js.py, or: EMITTER_JS=…/emitter.mjs node --test emitter_unit.test.mjs
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

/** What a window gives: its listeners, its frames and its timers run when the test says so. */
const listeners = new Map();
let frames = [];
let timers = new Map();
globalThis.addEventListener = (name, handler) => listeners.set(name, handler);
globalThis.requestAnimationFrame = (task) => frames.push(task);
globalThis.document = { visibilityState: "visible" };
const realTimers = [globalThis.setTimeout, globalThis.clearTimeout];
const fake = () => {
  globalThis.setTimeout = (task, ms = 0) => { const id = Symbol("timer"); timers.set(id, { task, ms }); return id; };
  globalThis.clearTimeout = (id) => timers.delete(id);
};
const real = () => { [globalThis.setTimeout, globalThis.clearTimeout] = realTimers; };
const frame = () => { for (const task of frames.splice(0)) task(); };
const pass = (ms) => { for (const [id, timer] of [...timers]) if (timer.ms <= ms && timers.delete(id)) timer.task(); };

const { oncePerFrame, unlessPressed } = await import(process.env.EMITTER_JS);

const during = (name, body) => test(name, () => { fake(); try { body(); } finally { real(); } });

beforeEach(() => { frames = []; timers = new Map(); });

during("what is asked for many times is done once, in the next frame, and again when it is asked for again", () => {
  let count = 0;
  const draw = oncePerFrame(() => { count += 1; });
  draw();
  draw();
  assert.equal(count, 0);
  frame();
  pass(100); // the timer for hidden windows finds it done
  assert.equal(count, 1);
  draw();
  frame();
  assert.equal(count, 2);
});

during("nothing is drawn anew between the press and the click", () => {
  const done = [];
  const draw = oncePerFrame(() => done.push("drawn"));
  const other = () => done.push("other");
  listeners.get("pointerdown")();
  draw();
  unlessPressed(other);
  unlessPressed(other);
  frame();
  pass(100);
  assert.deepEqual(done, []);
  listeners.get("pointerup")();
  assert.deepEqual(done, []); // the click comes in this same turn
  pass(0);
  assert.deepEqual(done.sort(), ["drawn", "other"]);
  draw();
  frame();
  assert.equal(done.length, 3);
});

during("a press that lasts holds nothing up for long, and an earlier one does not shorten a later one", () => {
  let count = 0;
  listeners.get("pointerdown")();
  listeners.get("pointerup")();
  pass(0);
  listeners.get("pointerdown")();
  assert.equal(timers.size, 1);
  unlessPressed(() => { count += 1; });
  assert.equal(count, 0);
  pass(1000);
  assert.equal(count, 1);
});
