/**
 * The part of a conversation that is in memory, and on the screen: a run of messages without a hole, at most `MAX` of them.
 * Scrolling moves it along the server's history, a page at a time, so a conversation of any length costs the same.
 */
import { applyChange } from "/imserver.js";

const PAGE = 50;
const MAX = 300;

export class Timeline {
  /** @param {import("/imserver.js").ImClient} client @param {string} id @param {() => void} onChange */
  constructor(client, id, onChange) {
    Object.assign(this, { client, id, onChange });
    /** @type {import("/imserver.js").Message[]} */ this.items = [];
    this.hasOlder = false;
    this.hasNewer = false;
    this.isLoaded = false;
    this.error = null;
    this.firstUnread = 0; // the line "new messages" stands above it
    this.missed = 0; // messages that came while the end was not in memory
    this.#loading = null;
  }

  #loading;
  get isLoading() { return this.#loading !== null; }
  get firstSeq() { return this.items[0]?.seq ?? 0; }
  get lastSeq() { return this.items.at(-1)?.seq ?? 0; }

  /** Another page may be on its way, which is not the newest. */
  loadNewest() {
    if (this.#loading) return this.#loading.then(() => this.loadNewest());
    return this.#load({ limit: PAGE }, (page) => this.#replace(page, false));
  }
  loadOlder() {
    if (!this.hasOlder) return Promise.resolve();
    return this.#load({ beforeSeq: this.firstSeq, limit: PAGE }, (page) => {
      this.items = [...page.messages, ...this.items];
      this.hasOlder = page.messages.length > 0 && this.firstSeq > page.first_seq;
      if (this.items.length > MAX) { this.items.length = MAX; this.hasNewer = true; }
    });
  }
  loadNewer() {
    if (!this.hasNewer) return Promise.resolve();
    return this.#load({ afterSeq: this.lastSeq, limit: PAGE }, (page) => {
      this.items = [...this.items, ...page.messages];
      this.hasNewer = page.messages.length > 0 && this.lastSeq < page.last_seq;
      if (!this.hasNewer) this.missed = 0;
      if (this.items.length > MAX) { this.items = this.items.slice(-MAX); this.hasOlder = true; }
    });
  }

  /** Go to where this message is. */
  async loadAround(seq) {
    if (this.items.some((message) => message.seq === seq)) return;
    await this.#loading;
    await this.#load({ afterSeq: Math.max(0, seq - PAGE / 2), limit: PAGE }, (page) => this.#replace(page, true));
  }

  #replace(page, hasGap) {
    const late = this.items.filter((message) => message.seq > (page.messages.at(-1)?.seq ?? 0));
    this.hasNewer = hasGap && (page.messages.at(-1)?.seq ?? 0) < page.last_seq;
    this.items = this.hasNewer ? page.messages : [...page.messages, ...late];
    this.hasOlder = this.items.length > 0 && this.firstSeq > page.first_seq;
    if (!this.hasNewer) this.missed = 0;
  }

  #load(bounds, take) {
    this.#loading ??= (async () => {
      try {
        const page = await this.client.history(this.id, bounds);
        take(page);
        this.isLoaded = true;
        this.error = null;
      } catch (error) {
        this.error = error;
      } finally {
        this.#loading = null;
        this.onChange();
      }
    })();
    return this.#loading;
  }

  /** The next message of the conversation. @returns {boolean} it is shown at the end */
  append(message) {
    if (this.hasNewer) { this.missed += 1; return false; }
    if (message.seq <= this.lastSeq) return false;
    this.items.push(message);
    if (this.items.length > MAX + PAGE) { this.items = this.items.slice(-MAX); this.hasOlder = true; }
    return true;
  }

  /** A message was recalled, edited or reacted to. @param {import("/imserver.js").Changed} changed */
  change(changed) {
    this.items = this.items.map((message) => (message.seq === changed.seq ? applyChange(message, changed) : message));
  }

  find(seq) { return this.items.find((message) => message.seq === seq); }
}
