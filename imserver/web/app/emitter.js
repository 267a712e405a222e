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

/** At most one call per frame, however often it is asked for; also in hidden windows, which have no frames. */
export function oncePerFrame(task) {
  let isDue = false;
  const run = () => { if (isDue) { isDue = false; task(); } };
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
