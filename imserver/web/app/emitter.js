/** Handlers by name. */
export class Emitter {
  #handlers = new Map();

  /** @returns {() => void} takes the handler away */
  on(name, handler) {
    if (!this.#handlers.has(name)) this.#handlers.set(name, new Set());
    this.#handlers.get(name).add(handler);
    return () => this.#handlers.get(name)?.delete(handler);
  }

  emit(name, detail) {
    for (const handler of [...(this.#handlers.get(name) ?? [])]) handler(detail);
  }
}

const PRESS_MS = 600; // a longer press is no click: the page goes on
const held = new Set();
let isPressed = false;
let atLatest = 0;

function release() {
  clearTimeout(atLatest);
  isPressed = false;
  const due = [...held];
  held.clear();
  for (const task of due) task();
}

globalThis.addEventListener("pointerdown", () => { isPressed = true; clearTimeout(atLatest); atLatest = setTimeout(release, PRESS_MS); }, true);
for (const name of ["pointerup", "pointercancel"]) globalThis.addEventListener(name, () => setTimeout(release), true); // the click comes first

/** Do it now, or once what is pressed is released: an element that is replaced between the two never gets its click. */
export function unlessPressed(task) { if (isPressed) held.add(task); else task(); }

/** At most one call per frame, however often it is asked for; also in hidden windows, which have no frames. */
export function oncePerFrame(task) {
  let isDue = false;
  const now = () => { if (isDue) { isDue = false; task(); } };
  const run = () => unlessPressed(now);
  return () => {
    if (isDue) return;
    isDue = true;
    if (document.visibilityState === "visible") requestAnimationFrame(run);
    setTimeout(run, 100);
  };
}

/** A map that forgets what was used longest ago. */
export class Lru extends Map {
  constructor(limit, onDrop = () => {}) { super(); this.limit = limit; this.onDrop = onDrop; }
  get(key) {
    const value = super.get(key);
    if (value !== undefined) { super.delete(key); super.set(key, value); }
    return value;
  }
  set(key, value) {
    super.delete(key);
    super.set(key, value);
    for (const oldest of this.keys()) {
      if (this.size <= this.limit) break;
      const dropped = super.get(oldest);
      super.delete(oldest);
      this.onDrop(dropped, oldest);
    }
    return this;
  }
}
