/**
 * imserver.js: the JavaScript client of imserver. One file, no dependencies, no build.
 *
 *     import { ImClient } from "/imserver.js";
 *     const client = new ImClient();                       // in a browser: the server that served the page
 *     client.on("message", (message) => console.log(message.from, message.body));
 *     await client.login("anna", "correct horse 7 battery");
 *     await client.send("ben", "hello");                   // resolves when the message is on the server's disk
 *
 * It speaks the protocol's JSON form over WebSocket, and works in browsers and in Node 22 or later. What it promises:
 *
 *  * Sending: a message without an answer is sent again, on the next connection or after a reload, with the same
 *    `client_id`; the server stores it once. Messages to one conversation are sequenced in the order of the calls.
 *  * Receiving: every message of a conversation, one's own included, comes as one `message` event, in `seq` order,
 *    whatever was repeated, lost or overtaken on the wire.
 *  * Connection: it reconnects by itself (exponential back-off with full jitter, never sooner than the server asks) until
 *    the server ends the session for good, and it tells its state at any time.
 *  * Bounds: nothing grows with what the server or the application sends; see `LIMITS`.
 *
 * Source: docs/reference/javascript-client.md and docs/reference/protocol.md.
 */

/** The protocol's command ids. */
export const Command = Object.freeze({
  HEARTBEAT: 1, GOAWAY: 2, ERROR: 3, HELLO: 4,
  REGISTER: 1001, LOGIN: 1002, AUTH: 1003, REFRESH: 1004, LOGOUT: 1005, GET_USER: 1006, UPDATE_PROFILE: 1007,
  CHANGE_PASSWORD: 1008, SEARCH_USERS: 1009, LIST_DEVICES: 1010, KICK_DEVICE: 1011, GET_PRESENCE: 1012, WATCH_PRESENCE: 1013,
  SEND: 2001, PULL: 2002, SYNC: 2003, MARK_READ: 2004, RECALL: 2005, EDIT: 2006, REACT: 2007, TYPING: 2008, SEARCH: 2009,
  DELETE_CONVERSATION: 2010, SEND_BATCH: 2011, RECEIPTS: 2012, CONVERSATION_SETTINGS: 2013, CHANGES: 2014,
  FRIEND_REQUEST: 3001, FRIEND_ANSWER: 3002, LIST_FRIENDS: 3003, LIST_FRIEND_REQUESTS: 3004, DELETE_FRIEND: 3005, BLOCK: 3006,
  UNBLOCK: 3007, LIST_BLOCKED: 3008, SET_REMARK: 3009,
  CREATE_GROUP: 4001, GET_GROUP: 4002, UPDATE_GROUP: 4003, DISMISS_GROUP: 4004, ADD_MEMBERS: 4005, REMOVE_MEMBERS: 4006,
  LEAVE_GROUP: 4007, LIST_MEMBERS: 4008, SET_ROLE: 4009, MUTE_MEMBER: 4010, LIST_GROUPS: 4011, JOIN_GROUP: 4012, ANSWER_JOIN: 4013,
  MESSAGE: 5001, PUSH_ACK: 5002, MESSAGE_CHANGED: 5003, READ: 5004, TYPING_PUSH: 5005, PRESENCE: 5006, FRIEND: 5007,
  GROUP: 5008, NOTIFY: 5009,
});

/** What bounds the client's memory and patience. All numbers are arbitrary but for the reasons given. */
export const LIMITS = Object.freeze({
  early: 32, // messages before their turn, per conversation; more is a real gap, which a PULL fills with these too
  changed: 512, // changes remembered while a PULL of their conversation is under way; more than a page has messages
  fresh: 1000, // unread messages counted one by one; older ones are one number
  watched: 1000, // users whose presence is watched
  requests: 1024, // requests that wait for an answer or for a connection
  page: 200, // messages per PULL or CHANGES; the protocol allows 500
  syncPage: 500,
  acks: 500, // conversations per PUSH_ACK: the server's limit
  sendsInFlight: 64,
  streams: 64, // messages that are growing at this moment
  streamChars: 256 * 1024, // of one of them
  collected: 10_000, // entries that `collect` gathers
  wholeUploadBytes: 1024 * 1024, // larger files are uploaded so that they can go on where they stopped
  uploadAttempts: 8, // of which none brings the upload forward
  resendForMs: 24 * 3600_000, // the server forgets a `client_id` after that: sending again could make two messages
  goawayGraceMs: 5000, // for the answers that are still due after GOAWAY
  stableMs: 5000, // a connection that lived so long was a success: the back-off begins anew
});

// Carrying these out twice is the same as once: they are asked again when the connection goes or the server is busy.
/** @type {Set<number>} */
const REPEATABLE = new Set([
  Command.HEARTBEAT, Command.HELLO, Command.LOGIN, Command.GET_USER, Command.UPDATE_PROFILE, Command.SEARCH_USERS, Command.LIST_DEVICES,
  Command.GET_PRESENCE, Command.WATCH_PRESENCE, Command.PULL, Command.SYNC, Command.MARK_READ, Command.SEARCH,
  Command.RECEIPTS, Command.CONVERSATION_SETTINGS, Command.CHANGES, Command.LIST_FRIENDS, Command.LIST_FRIEND_REQUESTS,
  Command.LIST_BLOCKED, Command.GET_GROUP, Command.LIST_MEMBERS, Command.LIST_GROUPS, Command.PUSH_ACK,
  Command.EDIT, Command.REACT, Command.FRIEND_ANSWER, Command.BLOCK, Command.UNBLOCK, Command.SET_REMARK, Command.UPDATE_GROUP,
  Command.MUTE_MEMBER,
]);
const RETRIABLE_CODES = new Set([429, 503, 504]);
/** @type {Set<number>} */
const WITHOUT_LOGIN = new Set([Command.HEARTBEAT, Command.REGISTER, Command.LOGIN, Command.AUTH, Command.REFRESH, Command.HELLO]);

/**
 * Why a call failed. `code` 0 means that it failed on this side: `request_timeout`, `connection_lost`, `aborted`, `ended`,
 * `outbox_full`, `too_many_requests`, `upload_failed`, `too_old`, `bad_answer`.
 */
export class ImError extends Error {
  /**
   * @param {number} code the server's error code (HTTP's where HTTP has one), or 0
   * @param {string} error the stable snake_case name: test this one, not the message
   * @param {string} [message] for a person
   * @param {{field?: string, retryAfterMs?: number, command?: number, isUnknown?: boolean, offset?: number}} [more]
   */
  constructor(code, error, message = "", more = {}) {
    super(message || error);
    this.name = "ImError";
    this.code = code;
    this.error = error;
    /** The field of the request that was wrong, where the server named one. @type {string|undefined} */
    this.field = more.field;
    /** How long to wait before the same request can succeed. @type {number|undefined} */
    this.retryAfterMs = more.retryAfterMs;
    /** @type {number|undefined} */
    this.command = more.command;
    /** The request may have been carried out all the same: its answer is what is missing. */
    this.isUnknown = more.isUnknown ?? code === 504;
    /** With `wrong_offset`: where the server's part of an upload ends. @type {number|undefined} */
    this.offset = more.offset;
  }

  /** @param {Record<string, any>} answer @param {number} [command] */
  static fromAnswer(answer, command) {
    const code = Number.isInteger(answer.code) ? answer.code : 500;
    return new ImError(code, String(answer.error ?? `code_${code}`), String(answer.message ?? ""), {
      field: typeof answer.field === "string" ? answer.field : undefined,
      retryAfterMs: Number.isFinite(answer.retry_after_ms) ? answer.retry_after_ms : undefined,
      command,
      offset: Number.isInteger(answer.offset) ? answer.offset : undefined,
    });
  }
}

/**
 * @typedef {object} Message a message as the protocol has it
 * @property {string} conversation_id @property {number} [seq] absent: not stored @property {number} [rev]
 * @property {string} message_id @property {string} client_id
 * @property {string} from a user id; "": the server itself (`type` is `system`) @property {number} sent_at ms since the epoch
 * @property {string} type `text`, `image`, `file`, `audio`, `video`, `location`, `card`, `custom`, `system`
 * @property {any} [body] a string for `text`; absent once recalled @property {number} [reply_to] a `seq`
 * @property {string[]} [mentions] user ids, and `@all` @property {number} [edited_at] @property {boolean} [recalled]
 * @property {string} [recalled_by] as far as this client was told @property {Record<string, string[]>} [reactions] who, by emoji
 *
 * @typedef {object} Changed what `changed` tells
 * @property {string} conversation_id @property {number} seq @property {"recalled"|"edited"|"reacted"} change
 * @property {Partial<Message>} message the fields that changed, as they are now; one that is gone is there as undefined:
 *   `applyChange(message, changed)` puts them into a copy
 * @property {string} [by] who did it, where the server tells
 *
 * @typedef {object} Growing a message that is being written, piece by piece, by a bot
 * @property {string} conversation_id @property {string} client_id @property {string} from @property {string} [message_id]
 * @property {number} started_at @property {string} text so far
 * @property {boolean} isWhole no piece of it was missed @property {"growing"|"done"|"aborted"} state
 *
 * @typedef {object} Conversation
 * @property {string} conversation_id @property {"direct"|"group"} kind @property {string} [peer] @property {any} [group]
 * @property {number} last_seq @property {number} read_seq @property {number} unread exact, see the protocol's section 4
 * @property {number} peer_read_seq as far as this client knows; 0: nothing is known
 * @property {Message|null} last_message
 * @property {boolean} [muted] @property {boolean} [pinned]
 * @property {boolean} [left] no longer a member @property {boolean} [hidden] deleted by the user; a new message brings it back
 *
 * @typedef {object} SyncPage
 * @property {object[]} conversations @property {string} next_cursor @property {boolean} more
 *
 * @typedef {object} Settings of one conversation, for this user
 * @property {boolean} muted @property {boolean} pinned
 *
 * @typedef {object} Receipts
 * @property {string[]} read who has read up to here, the sender left out; not all of them in a large group
 * @property {number} [read_count] how many have @property {number} unread_count how many have not
 *
 * @typedef {object} User
 * @property {string} user_id @property {string} nickname @property {string} [avatar] @property {string} [bio] @property {number} created_at
 *
 * @typedef {object} Device
 * @property {string} session_id @property {string} device_id @property {string} platform @property {string} address
 * @property {number} connected_at @property {boolean} online
 *
 * @typedef {object} Presence
 * @property {string} user_id @property {boolean} online @property {string[]} platforms @property {number} [last_seen]
 *
 * @typedef {object} Friend
 * @property {string} user_id @property {string} nickname @property {string} [remark] what this user calls them
 * @property {number} since @property {boolean} online
 *
 * @typedef {object} FriendRequest
 * @property {string} request_id @property {string} user_id the other one @property {string} nickname
 * @property {"pending"|"accepted"|"declined"} state @property {number} created_at @property {string} [message] @property {number} [answered_at]
 *
 * @typedef {object} Group
 * @property {string} group_id @property {string} name @property {string} owner @property {string} [avatar] @property {string} [announcement]
 * @property {"open"|"approval"|"invite"} join @property {"joined"|"all"} [history] @property {number} member_count @property {number} created_at
 * @property {boolean} [muted] only the owner and the admins may write
 * @property {Role} [role] one's own; absent: one is no member @property {number} [muted_until] one's own
 * @property {JoinRequest[]} [join_requests] for the owner and the admins
 *
 * @typedef {"owner"|"admin"|"member"} Role
 *
 * @typedef {object} JoinRequest
 * @property {string} request_id @property {string} user_id @property {string} [message] @property {number} created_at
 *
 * @typedef {object} Member
 * @property {string} user_id @property {Role} role @property {string} [nickname] @property {number} joined_at @property {number} [muted_until]
 *
 * @typedef {object} Failed @property {string} user_id @property {string} error `not_found`, `already_member`, `group_limit`
 *
 * @typedef {{limit?: number, cursor?: string}} Paging `cursor` is the `next_cursor` of the page before; none: there is no more
 *
 * @typedef {object} Outgoing a message on its way
 * @property {string} client_id @property {string} conversation_id @property {string} type @property {any} body
 * @property {number} [reply_to] @property {string[]} [mentions] @property {number} created_at
 * @property {"pending"|"failed"} status @property {{code: number, error: string, message: string}} [error]
 *
 * @typedef {object} Session
 * @property {string} user_id @property {string} token @property {string} [refresh_token] @property {number} expires_at
 * @property {string} device_id
 *
 * @typedef {object} State what the connection is doing
 * @property {"offline"|"connecting"|"online"|"reconnecting"|"ended"} name
 * @property {number} [retryAt] with `reconnecting`: when the next attempt is made, in Date.now()'s time
 * @property {string} [reason] why the last connection went, or why the session ended
 *
 * @typedef {object} Store where the client keeps what must outlive it; values are plain JSON. May be asynchronous.
 * @property {(key: string) => any} get undefined or null: nothing there
 * @property {(key: string, value: any) => any} set @property {(key: string) => any} remove
 */

/** A store in memory: nothing outlives the page. */
export class MemoryStore {
  #values = new Map();
  get(key) { return this.#values.get(key); }
  set(key, value) { this.#values.set(key, structuredClone(value)); }
  remove(key) { this.#values.delete(key); }
}

/** A store over `localStorage` or `sessionStorage`. */
export class WebStore {
  /** @param {Storage} storage @param {string} [prefix] begins every key */
  constructor(storage, prefix = "imserver:") { this.storage = storage; this.prefix = prefix; }
  get(key) {
    const text = this.storage.getItem(this.prefix + key);
    if (text === null) return undefined;
    try { return JSON.parse(text); } catch { return undefined; } // somebody else's value: as good as none
  }
  set(key, value) { this.storage.setItem(this.prefix + key, JSON.stringify(value)); }
  remove(key) { this.storage.removeItem(this.prefix + key); }
}

/** Delays between 0 and a ceiling that doubles: full jitter spreads the clients of a restarted server best. */
export class Backoff {
  #attempt = 0;
  constructor({ minMs = 100, maxMs = 30_000, random = Math.random } = {}) { this.minMs = minMs; this.maxMs = maxMs; this.random = random; }
  /** @param {number} [atLeastMs] the jitter comes on top of it */
  next(atLeastMs = 0) {
    const ceiling = Math.min(this.maxMs, this.minMs * 2 ** Math.min(this.#attempt++, 30));
    return atLeastMs + this.random() * ceiling;
  }
  reset() { this.#attempt = 0; }
}

/** @returns {string} 16 hex digits; `crypto.randomUUID` does not exist on pages without TLS */
export function randomId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The id of the direct conversation of two users. */
export function directId(a, b) { return `d:${a < b ? a : b}:${a < b ? b : a}`; }

/**
 * Gather all pages of a list: `await collect((cursor) => client.friends({ limit: 500, cursor }), "friends")`.
 * @param {(cursor?: string) => Promise<any>} ask @param {string} name of the list in the answer @param {number} [atMost]
 * @returns {Promise<any[]>}
 */
export async function collect(ask, name, atMost = LIMITS.collected) {
  const all = [];
  let cursor;
  do {
    const page = await ask(cursor);
    all.push(...page[name]);
    cursor = page[name].length ? page.next_cursor : undefined;
  } while (cursor && all.length < atMost);
  return all.slice(0, atMost);
}

/** A message as it is after a change. @param {Message} message @param {Changed} changed @returns {Message} */
export function applyChange(message, changed) {
  if (changed.message.rev < message.rev) return message; // it is overtaken
  if (changed.change === "recalled" && changed.by) message = { ...message, recalled_by: changed.by };
  const now = { ...message, ...changed.message, seq: message.seq };
  for (const name of ["body", "edited_at", "recalled", "reactions"]) if (now[name] === undefined) delete now[name];
  return now;
}

/** What a push 5003, or a message out of CHANGES, says of the fields that a change may touch. @returns {Partial<Message>} */
function presentState(state, change) {
  /** @type {Partial<Message>} */
  const now = { conversation_id: state.conversation_id, seq: state.seq, ...pick(state, ["rev"]) };
  if (state.recalled) return { ...now, recalled: true, body: undefined, edited_at: undefined, reactions: undefined };
  Object.assign(now, pick(state, ["body", "edited_at"]));
  if (state.reactions || change !== "edited") now.reactions = state.reactions && Object.keys(state.reactions).length ? state.reactions : undefined;
  return now;
}

/** Kinds of values by the name that the shapes of answers give them; a `?` behind it: may be absent. */
const KINDS = {
  string: (value) => typeof value === "string", number: (value) => Number.isFinite(value), boolean: (value) => typeof value === "boolean",
  array: (value) => Array.isArray(value), object: (value) => typeof value === "object" && value !== null,
};

/** An answer that has what its command's answers have; what else there is, newer servers may add. */
function checked(answer, shape, command) {
  for (const [name, kind] of Object.entries(shape)) {
    const isThere = answer[name] !== undefined && answer[name] !== null;
    if (isThere ? KINDS[kind.replace("?", "")](answer[name]) : kind.endsWith("?")) continue;
    throw new ImError(0, "bad_answer", `the server's answer has no proper "${name}"`, { command });
  }
  return answer;
}

const delay = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal?.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
});

/** One WebSocket that speaks the protocol: requests by `rid`, pushes to `onPush`. */
class Connection {
  #waiting = new Map();
  #lastRid = 0;
  #lastReceived = Date.now();
  #heartbeat;

  constructor(socket, onPush) {
    this.socket = socket;
    this.onPush = onPush;
    this.isUsable = true;
    this.isLost = false;
    this.isLoggedIn = false;
    this.reason = "";
    this.leaving = new Promise((resolve) => { this.leave = () => { this.isUsable = false; resolve(); }; });
    this.lost = new Promise((resolve) => { this.#resolveLost = resolve; });
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onclose = (event) => this.lose(event.reason || `closed (${event.code})`);
    socket.onerror = () => {}; // `close` follows
    this.setHeartbeat(30_000);
  }

  #resolveLost;

  get inFlight() { return this.#waiting.size; }

  setHeartbeat(ms) {
    clearInterval(this.#heartbeat);
    if (this.isLost) return;
    this.#heartbeat = setInterval(() => this.check(2 * ms), ms);
  }

  /** Ask for a sign of life, and give the connection up if there is none within `patienceMs`. */
  check(patienceMs) {
    if (this.isLost) return;
    const asked = Date.now();
    this.post(Command.HEARTBEAT, { rid: this.#nextRid() });
    setTimeout(() => { if (this.#lastReceived < asked) this.lose("no sign of life"); }, patienceMs);
  }

  lose(reason) {
    if (this.isLost) return;
    this.isLost = true;
    this.reason = reason;
    clearInterval(this.#heartbeat);
    this.leave();
    try { this.socket.close(); } catch (error) { this.reason += `; ${error.message}`; }
    for (const waiting of [...this.#waiting.values()]) waiting.fail(new ImError(0, "connection_lost", `the connection went: ${reason}`, { isUnknown: true }));
    this.#resolveLost();
  }

  post(command, body) {
    this.socket.send(JSON.stringify({ cmd: command, ...body }));
  }

  /**
   * @param {number} command @param {object} body @param {number} timeoutMs
   * @param {(answer: any) => void} [onAnswer] called before any later frame is looked at
   */
  request(command, body, timeoutMs, onAnswer) {
    return new Promise((resolve, reject) => {
      if (!this.isUsable) return reject(new ImError(0, "connection_lost", "not connected", { command, isUnknown: false }));
      const rid = this.#nextRid();
      const end = () => { clearTimeout(timer); this.#waiting.delete(rid); };
      const fail = (error) => { end(); error.command = command; reject(error); };
      const timer = setTimeout(() => fail(new ImError(0, "request_timeout", "the server has not answered in time", { isUnknown: true })), Math.min(timeoutMs, 2 ** 31 - 1));
      this.#waiting.set(rid, {
        fail,
        answer: (answer) => {
          if (answer.code !== 0) return fail(ImError.fromAnswer(answer, command));
          end();
          try { onAnswer?.(answer); } catch (error) { return reject(error); }
          resolve(answer);
        },
      });
      try { this.post(command, { ...body, rid }); } catch (error) { this.lose(error.message); }
    });
  }

  #nextRid() {
    do this.#lastRid = (this.#lastRid % 0xffff_ffff) + 1; while (this.#waiting.has(this.#lastRid));
    return this.#lastRid;
  }

  #receive(data) {
    this.#lastReceived = Date.now();
    let frame;
    try { frame = JSON.parse(data); } catch { return this.lose("the server sent what is no JSON"); }
    if (frame.rid) this.#waiting.get(frame.rid)?.answer(frame); // none: its caller has given up
    else this.onPush(this, frame.cmd, frame);
  }
}

/**
 * Every message once and in order, and how many are unread: the state machine of one conversation. No I/O, no clock.
 *
 *     got    everything up to here was delivered, or is known not to be for this user
 *     head   the highest `seq` that is known to exist; while got < head a PULL is wanted
 *
 * The unread number has two parts: what SYNC counted (`base`, as of `baseSeq`), and the messages delivered since (`fresh`).
 */
export class Track {
  constructor(conversationId, me) {
    this.id = conversationId;
    this.me = me;
    /** @type {number|null} */ this.got = null;
    this.head = 0;
    this.rev = 0; // every change up to here was seen
    this.revTarget = 0; // what CHANGES must reach
    /** @type {Map<number, Message>} */ this.early = new Map();
    /** While a PULL is under way, what has changed meanwhile: `rev` by `seq`. @type {Map<number, number>|null} */ this.changed = null;
    this.doubtfulSeq = Infinity; // from here on any may have changed: `changed` is full
    this.readSeq = 0;
    this.peerRead = 0;
    this.base = 0;
    this.baseSeq = 0;
    /** @type {number[]} */ this.fresh = [];
    this.isUncertain = false; // the unread number must be asked for (SYNC)
    /** @type {Message|null} */ this.last = null;
    this.group = undefined;
    this.muted = false;
    this.pinned = false;
    this.isLeft = false; // no longer a member
    this.isHidden = false; // deleted by the user, until a new message comes
  }

  get isGroup() { return this.id.startsWith("g:"); }
  get isLagging() { return this.got !== null && this.got < this.head; }
  get unread() { return this.base + this.fresh.length; }

  /** Take in a message; returns those whose turn it is now. @param {Message} message @returns {Message[]} */
  arrived(message) {
    this.head = Math.max(this.head, message.seq);
    if (this.got === null && message.seq === 1) this.got = 0; // we were here when it began
    if (this.got === null || message.seq > this.got + 1) {
      if (this.early.size < LIMITS.early) this.early.set(message.seq, message);
      return [];
    }
    if (message.seq <= this.got) return [];
    this.got = message.seq;
    this.#count(message);
    return [message, ...this.settle()];
  }

  /** Begin after `seq`. */
  begin(seq) {
    this.got = seq;
    this.head = Math.max(this.head, seq);
  }

  /** Pass over what is not there up to `seq`; returns the messages whose turn it is. */
  advance(seq) {
    const due = [];
    for (const place of [...this.early.keys()].sort((a, b) => a - b)) {
      const message = this.early.get(place);
      if (place > seq) break;
      this.early.delete(place);
      if (place > this.got) { this.got = place; this.#count(message); due.push(message); }
    }
    this.got = Math.max(this.got, seq);
    this.head = Math.max(this.head, this.got);
    return [...due, ...this.settle()];
  }

  /** Let early messages take their turn. @returns {Message[]} */
  settle() {
    const due = [];
    for (const seq of this.early.keys()) if (seq <= this.got) this.early.delete(seq);
    while (this.early.has(this.got + 1)) {
      const message = this.early.get(this.got + 1);
      this.early.delete(message.seq);
      this.got = message.seq;
      this.#count(message);
      due.push(message);
    }
    return due;
  }

  /** Skip everything up to the head without delivering it, just after SYNC has counted it. */
  skip() {
    this.got = this.head;
    this.early.clear();
  }

  /** A PULL is asked for, which shows all changes that came before; or it is over. */
  pull(isUnderWay) {
    this.changed = isUnderWay ? new Map() : null;
    this.doubtfulSeq = Infinity;
  }

  /** A PULL that is under way may have read this message before its change. */
  noteChange(seq, rev = 0) {
    if (!this.changed) return;
    this.changed.set(seq, Math.max(rev, this.changed.get(seq) ?? 0));
    if (this.changed.size <= LIMITS.changed) return;
    const highest = Math.max(...this.changed.keys());
    this.changed.delete(highest);
    this.doubtfulSeq = Math.min(this.doubtfulSeq, highest);
  }

  /** Whether this state of a message may be older than a change that came before it. @param {Message} message */
  isOvertaken(message) { return message.seq >= this.doubtfulSeq || (message.rev ?? 0) < (this.changed?.get(message.seq) ?? 0); }

  /** Show a message as the newest one, unless a newer one, or a later state of it, is known. @param {Message} message */
  showLast(message) {
    if (this.last && (message.seq < this.last.seq || (message.seq === this.last.seq && (message.rev ?? 0) < (this.last.rev ?? 0)))) return;
    this.last = message;
  }

  #count(message) {
    this.isHidden = this.isLeft = false;
    this.showLast(message);
    if (message.from === this.me) return this.read(message.seq); // sending moves one's own `read_seq`
    if (!this.isGroup) this.peerRead = Math.max(this.peerRead, message.seq); // and the peer's its own
    if (message.seq <= this.baseSeq || message.seq <= this.readSeq || message.type === "system" || message.recalled) return;
    this.fresh.push(message.seq);
    if (this.fresh.length > LIMITS.fresh) {
      const folded = this.fresh.splice(0, LIMITS.fresh / 2);
      this.base += folded.length;
      this.baseSeq = folded.at(-1);
    }
  }

  /** The user has read up to `seq`, on whatever device. @returns {boolean} it moved */
  read(seq) {
    if (seq <= this.readSeq) return false;
    this.readSeq = seq;
    if (seq >= this.baseSeq) this.base = 0;
    else if (this.base) this.isUncertain = true;
    this.fresh = this.fresh.filter((one) => one > seq);
    return true;
  }

  /** The user has deleted the conversation: its past is gone. */
  hide() {
    this.isHidden = true;
    this.last = null;
    this.base = 0;
    this.baseSeq = this.head;
    this.fresh = [];
    this.early.clear();
  }

  /** A message was recalled: it does not count any more. */
  recalled(seq) {
    if (seq <= this.readSeq) return;
    if (this.fresh.includes(seq)) this.fresh = this.fresh.filter((one) => one !== seq);
    else if (seq <= this.baseSeq) this.isUncertain = true;
  }

  /** Take in SYNC's entry: the truth as of its `last_seq`. */
  synced(entry) {
    this.head = Math.max(this.head, entry.last_seq);
    this.base = entry.unread;
    this.baseSeq = entry.last_seq;
    this.fresh = this.fresh.filter((seq) => seq > this.baseSeq && seq > Math.max(this.readSeq, entry.read_seq));
    this.isUncertain = false;
    const here = this.readSeq;
    this.readSeq = entry.read_seq;
    this.read(here); // read here and not yet told: the answer to MARK_READ brings another SYNC if that matters
    this.isUncertain = false;
    if (entry.last_message) this.showLast(entry.last_message);
    if (entry.group !== undefined) this.group = entry.group;
    if (entry.peer !== undefined) this.peer = entry.peer;
    this.muted = Boolean(entry.muted);
    this.pinned = Boolean(entry.pinned);
    this.isLeft = Boolean(entry.left);
    if (entry.hidden) this.hide(); else this.isHidden = false;
  }

  /** @returns {Conversation} */
  toConversation() {
    const { isGroup } = this;
    const [first, second] = isGroup ? [] : this.id.slice(2).split(":");
    return {
      conversation_id: this.id, kind: isGroup ? "group" : "direct",
      ...(isGroup ? { group: this.group ?? this.id.slice(2) } : { peer: this.peer ?? (first === this.me ? second : first) }),
      last_seq: this.head, read_seq: this.readSeq, unread: this.unread, peer_read_seq: this.peerRead, last_message: this.last,
      ...(this.muted ? { muted: true } : {}), ...(this.pinned ? { pinned: true } : {}),
      ...(this.isLeft ? { left: true } : {}), ...(this.isHidden ? { hidden: true } : {}),
    };
  }
}

/**
 * A logged-in user on one device.
 *
 * Events, by `on(name, handler)` (which returns a function that takes the handler away):
 *
 *   state         State                     the connection
 *   message       Message                   the next message of a conversation, one's own included; once each, in order
 *   changed       Changed                   a message was recalled, edited or reacted to, now or while away; may repeat
 *   stream        Growing                   a message that a bot is writing grows, is done, or was given up
 *   conversation  Conversation              an entry of `conversations` is new or has changed
 *   synced        {}                        the overview is complete and nothing is missing any more
 *   gap           {conversation_id}         more than `skipBeyond` messages were missed and skipped: load `history` anew
 *   outgoing      {client_id, outgoing: Outgoing|null}     an unsent message: new, failed, or (null) no longer there
 *   read          {conversation_id, user_id, seq}
 *   typing        {conversation_id, user_id, on}
 *   presence      Presence
 *   friend        {event, user_id, request_id?, message?, by?}   `requested`, `accepted`, `declined`, `deleted`
 *   group         {event, group_id, by, user_ids?, …}       `created`, `updated`, `dismissed`, `joined`, `left`, `removed`, `role`,
 *                                           `muted`, `join_requested`
 *   notify        {topic, body}             from the server's owner or a plugin
 *   push          {command, body}           any other push
 *   session       Session|null              new tokens, or none any more
 *   ended         {reason, message}         the server ended the session for good: `replaced`, `kicked`, `unauthenticated`
 *   problem       {error}                   something failed in the background and the client goes on (the store is full, …)
 *
 * Every call ends with its result or an `ImError`.
 */
export class ImClient {
  #url; #WebSocket; #fetch; #store; #storeQueue = Promise.resolve(); #random; #timeoutMs; #history; #skipBeyond; #fullSync; #ackDelayMs; #maxOutbox; #maxOutboxBytes; #lock;
  #platform; #deviceId; #backoff;
  /** @type {Session|null} */ #session = null;
  #renewToken = null; #isTokenDead = false; #refreshing = null; #refreshTimer; #skewMs = 0;
  /** @type {State} */ #state = { name: "offline" };
  #server = null;
  #connection = null; #isRunning = false; #isClosed = false; #ended = null; #waiters = new Set(); #wake = () => {}; #retryAfterMs = 0;
  /** @type {Map<string, Track>} */ #tracks = new Map();
  #saved = {}; #cursor = ""; #hasSynced = false; #isFirstSync = true; #wantsSync = false; #isSynced = false; #working = false;
  #acks = new Map(); #ackTimer = null; #reads = new Map(); #isReading = false;
  /** @type {Map<string, any>} */ #outbox = new Map(); #sending = new Set(); #pumpTimer; #sendBackoff; #saveTimer = null; #outboxDirty = false;
  /** @type {Map<string, Growing>} */ #streams = new Map();
  #handlers = new Map(); #watched = new Set(); #supported = new Map(); #detach = () => {};

  /**
   * @param {object} [options]
   * @param {string} [options.url] `ws://` or `wss://`; default: `/ws` on the host that served the page
   * @param {Store} [options.store] what must survive a reload: session, positions, outbox; default: memory
   * @param {string} [options.deviceId] of this installation (or tab): two live connections with one id replace each other
   * @param {string} [options.platform] shown to the user in the list of devices
   * @param {"undelivered"|"unread"|"new"|"all"} [options.history] where `message` events begin in each conversation without a
   *   saved state: after what this device has confirmed, after what the user has read, with what comes from now on, at the start
   * @param {number} [options.skipBeyond] after an absence, skip a conversation that has more new messages than this (event `gap`)
   * @param {boolean} [options.fullSync] begin with the overview of all conversations, not only of those that changed since
   *   the saved state; true by default, so that `conversations` is complete
   * @param {number} [options.timeoutMs] of each request @param {number} [options.ackDelayMs] confirmations are gathered so long
   * @param {{minMs?: number, maxMs?: number}} [options.backoff] bounds of the reconnect delay's ceiling
   * @param {number} [options.maxOutbox] unsent messages at most @param {number} [options.maxOutboxBytes] and their size as JSON
   * @param {typeof WebSocket} [options.WebSocket] @param {typeof fetch} [options.fetch] @param {() => number} [options.random]
   * @param {(name: string, task: () => Promise<any>) => Promise<any>} [options.lock] runs a task alone among those who share the
   *   session's store (tabs); default: Web Locks, where the browser has them
   */
  constructor(options = {}) {
    const { location, navigator } = globalThis;
    this.#url = options.url ?? (location ? `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws` : "ws://127.0.0.1:8080/ws");
    this.#WebSocket = options.WebSocket ?? globalThis.WebSocket;
    if (!this.#WebSocket) throw new TypeError("there is no WebSocket here: use Node 22 or later, or give the option WebSocket");
    this.#fetch = options.fetch ?? globalThis.fetch?.bind(globalThis);
    this.#store = options.store ?? new MemoryStore();
    this.#deviceId = options.deviceId ?? "";
    this.#platform = options.platform ?? "web";
    this.#history = options.history ?? "undelivered";
    this.#skipBeyond = options.skipBeyond ?? Infinity;
    this.#fullSync = options.fullSync ?? true;
    this.#timeoutMs = options.timeoutMs ?? 15_000;
    this.#ackDelayMs = options.ackDelayMs ?? 200;
    this.#maxOutbox = options.maxOutbox ?? 1000;
    this.#maxOutboxBytes = options.maxOutboxBytes ?? 2 * 1024 * 1024;
    this.#random = options.random ?? Math.random;
    this.#backoff = new Backoff({ ...options.backoff, random: this.#random });
    this.#sendBackoff = new Backoff({ minMs: 500, maxMs: 30_000, random: this.#random });
    this.#lock = options.lock ?? (navigator?.locks ? (name, task) => navigator.locks.request(name, task) : (_name, task) => task());
    this.#listenToBrowser();
  }

  // ------------------------------------------------------------------ what is

  /** @returns {State} */
  get state() { return this.#state; }
  get isOnline() { return this.#state.name === "online"; }
  /** @returns {string|null} */
  get userId() { return this.#session?.user_id ?? null; }
  /** The tokens are as good as a password. @returns {Session|null} */
  get session() { return this.#session && { ...this.#session }; }
  get deviceId() { return this.#deviceId; }
  /** The overview, newest message first. @returns {Conversation[]} */
  get conversations() {
    return [...this.#tracks.values()].filter((track) => !track.isHidden && (track.head > 0 || track.last || track.group))
      .map((track) => track.toConversation()).sort((a, b) => (b.last_message?.sent_at ?? 0) - (a.last_message?.sent_at ?? 0));
  }
  /** @param {string} conversationId @returns {Conversation|null} */
  conversation(conversationId) { return this.#tracks.get(conversationId)?.toConversation() ?? null; }
  /** Unsent messages, oldest first. @returns {Outgoing[]} */
  get outgoing() { return [...this.#outbox.values()].map(publicOutgoing); }
  /** Messages that grow at this moment. @returns {Growing[]} */
  get growing() { return [...this.#streams.values()].map((one) => ({ ...one })); }
  /** What HELLO told of the server. @returns {{server: string, version: string, max_frame: number, heartbeat_ms: number, time: number}|null} */
  get server() { return this.#server && { ...this.#server }; }
  /** The server's clock, as far as the login told. */
  serverNow() { return Date.now() + this.#skewMs; }

  /** @param {string} name @param {(detail: any) => void} handler @returns {() => void} takes the handler away */
  on(name, handler) {
    if (!this.#handlers.has(name)) this.#handlers.set(name, new Set());
    this.#handlers.get(name).add(handler);
    return () => this.#handlers.get(name)?.delete(handler);
  }

  #emit(name, detail = {}) {
    for (const handler of [...(this.#handlers.get(name) ?? [])]) {
      // A handler's fault is the application's: it is reported as uncaught, and the next one has its turn.
      try { handler(detail); } catch (error) { queueMicrotask(() => { throw error; }); }
    }
  }

  // ------------------------------------------------------------------ session

  /** Make an account; the client is not logged in by it. */
  async register(userId, password, nickname = "") {
    return this.request(Command.REGISTER, { user_id: userId, password, ...(nickname ? { nickname } : {}) });
  }

  /** Log in; resolves when the first page of the overview is here. @returns {Promise<Session>} */
  login(userId, password) { return this.#logIn(Command.LOGIN, { user_id: userId, password }, {}); }

  /**
   * Log in with a token: of an earlier login, or one that your own system has issued.
   * @param {string} token
   * @param {{refreshToken?: string, expiresAt?: number, renewToken?: () => Promise<string>}} [more] `renewToken` gets a new one
   *   where there is no refresh token
   */
  authenticate(token, more = {}) {
    return this.#logIn(Command.AUTH, { token }, { token, refresh_token: more.refreshToken, expires_at: more.expiresAt }, more.renewToken);
  }

  /**
   * Take up the session that the store holds, and connect in the background.
   * @returns {Promise<boolean>} there was one
   */
  async restore() {
    const saved = await this.#store.get("session");
    if (!saved?.token || !saved.user_id) return false;
    await this.#adopt({ ...saved, device_id: this.#deviceId || saved.device_id });
    this.connect().catch(() => {}); // the events `state` and `ended` tell
    return true;
  }

  /** Connect, after `close()` or a session that has ended; resolves when online. */
  connect() {
    this.#isClosed = false;
    this.#ended = null;
    this.#run();
    return this.#session ? this.#online(this.#timeoutMs) : Promise.resolve();
  }

  /** Try to reconnect now, not when the delay is over. */
  retryNow() { this.#backoff.reset(); this.#wake(); }

  /** Leave: the session stays valid, unsent messages stay in the store. */
  close() {
    this.#isClosed = true;
    this.#detach();
    this.#flushAcks();
    this.#save();
    clearTimeout(this.#refreshTimer);
    clearTimeout(this.#pumpTimer);
    this.#connection?.lose("closed by this side");
    const error = new ImError(0, "ended", "the client was closed");
    this.#endWaiters(error);
    for (const entry of this.#outbox.values()) entry.reject(error); // the message stays in the store, and goes with the next client
    this.#wake();
    this.#setState({ name: "offline" });
  }

  /** End the session on the server (`all`: every session of the user), and forget it here, unsent messages included. */
  async logout({ all = false } = {}) {
    try {
      if (this.#session) await this.request(Command.LOGOUT, all ? { all: true } : {}, { timeoutMs: 5000 });
    } finally {
      await this.#forget();
      this.close();
    }
  }

  /** Renew the token now. It is also done in good time before it expires. @returns {Promise<Session>} */
  async refresh() {
    const connection = await this.#online(this.#timeoutMs);
    return this.#refresh(connection);
  }

  async changePassword(oldPassword, newPassword) {
    return this.request(Command.CHANGE_PASSWORD, { old_password: oldPassword, new_password: newPassword });
  }

  async #logIn(command, body, given, renewToken = null) {
    this.#isClosed = false;
    this.#ended = null;
    if (this.#session) throw new ImError(0, "already_logged_in", "this client is logged in: log out first, or make another client");
    this.#deviceId ||= (await this.#store.get("device_id")) ?? randomId();
    await this.#put("device_id", this.#deviceId);
    const userId = body.user_id ?? (await this.#store.get("state"))?.user_id; // a token does not tell whose it is
    if (userId) await this.#loadState(userId);
    const deadline = Date.now() + this.#timeoutMs;
    for (;;) {
      const connection = await this.#connected(deadline - Date.now());
      try {
        const request = { ...body, ...this.#loginFields() };
        await connection.request(command, request, Math.max(1, deadline - Date.now()), (answer) => {
          if (answer.user_id !== userId) { // what is remembered is another user's
            this.#forgetUser();
            if (request.sync) answer = { ...answer, sync: undefined };
          }
          this.#session = {
            user_id: answer.user_id, token: answer.token ?? given.token, refresh_token: answer.refresh_token ?? given.refresh_token,
            expires_at: answer.expires_at ?? given.expires_at ?? 0, device_id: this.#deviceId,
          };
          this.#renewToken = renewToken;
          this.#loggedIn(connection, answer);
        });
        this.#saveSession();
        return this.session;
      } catch (error) {
        if (this.#isClosed || error.error !== "connection_lost" || Date.now() > deadline) throw error;
      }
    }
  }

  #loginFields() {
    return { device_id: this.#deviceId, platform: this.#platform, deliver: "new", sync: this.#isFirstSync && this.#fullSync ? "" : this.#cursor };
  }

  async #adopt(session) {
    this.#session = session;
    this.#deviceId = session.device_id || randomId();
    await this.#loadState(session.user_id);
  }

  async #forget() {
    this.#session = null;
    clearTimeout(this.#saveTimer);
    this.#saveTimer = null;
    for (const entry of this.#outbox.values()) entry.reject(new ImError(0, "ended", "logged out"));
    this.#watched.clear();
    this.#streams.clear();
    this.#forgetUser();
    for (const key of ["session", "state", "outbox"]) await this.#drop(key);
    this.#emit("session", null);
  }

  #forgetUser() {
    this.#outbox.clear();
    this.#tracks.clear();
    this.#reads.clear();
    this.#acks.clear();
    this.#saved = {};
    this.#cursor = "";
    this.#hasSynced = false;
    this.#isFirstSync = true;
  }

  /** Exchange the refresh token for a new pair: alone among the tabs that share the store, since it works once. */
  #refresh(connection) {
    this.#refreshing ??= this.#lock(`imserver-refresh:${this.userId}`, async () => {
      const mine = this.#session;
      if (!mine) throw new ImError(401, "unauthenticated", "not logged in");
      const stored = await this.#store.get("session");
      if (stored?.user_id === mine.user_id && stored.token !== mine.token && stored.expires_at > mine.expires_at) {
        this.#session = { ...mine, token: stored.token, refresh_token: stored.refresh_token, expires_at: stored.expires_at };
      } else if (this.#renewToken) {
        this.#session = { ...mine, token: await this.#renewToken(), expires_at: 0 };
      } else if (!mine.refresh_token) {
        throw new ImError(401, "unauthenticated", "the token has expired, and there is no refresh token: log in again");
      } else {
        await connection.request(Command.REFRESH, { refresh_token: mine.refresh_token }, this.#timeoutMs, (answer) => {
          this.#session = { ...mine, token: answer.token, refresh_token: answer.refresh_token, expires_at: answer.expires_at };
        });
      }
      this.#isTokenDead = false;
      this.#saveSession();
      await this.#storeQueue; // before another tab has its turn
      this.#planRefresh();
      return this.session;
    }).finally(() => { this.#refreshing = null; });
    return this.#refreshing;
  }

  #planRefresh() {
    clearTimeout(this.#refreshTimer);
    const session = this.#session;
    if (!session?.expires_at || !(session.refresh_token || this.#renewToken)) return;
    const leftMs = session.expires_at - this.serverNow();
    const inMs = Math.max(1000, leftMs - Math.min(60_000, leftMs / 5) * (1 + this.#random()));
    this.#refreshTimer = setTimeout(async () => {
      if (this.#session?.expires_at - this.serverNow() > leftMs / 2) return this.#planRefresh(); // setTimeout cut it short
      const connection = this.#connection;
      if (!connection?.isLoggedIn || !connection.isUsable) return; // the next login will see to it
      try {
        await this.#refresh(connection);
        // A token that came from another tab or system is told to the server; one of ours renewed the connection with itself.
        if (this.#connection === connection) await connection.request(Command.AUTH, { token: this.#session.token }, this.#timeoutMs);
      } catch (error) {
        this.#emit("problem", { error });
        this.#refreshTimer = setTimeout(() => this.#planRefresh(), 5000 * (1 + this.#random()));
      }
    }, Math.min(inMs, 2 ** 31 - 1));
  }

  // ------------------------------------------------------------------ connection

  #setState(state) {
    this.#state = state;
    this.#emit("state", state);
  }

  #listenToBrowser() {
    const { window, document } = globalThis;
    if (!window?.addEventListener) return;
    const probe = () => this.#connection?.check(2500);
    const onVisible = () => { if (document.visibilityState === "visible") { probe(); this.#wake(); } else this.#save(); };
    const onOnline = () => { probe(); this.retryNow(); };
    const onHide = () => { this.#flushAcks(); this.#save(); };
    window.addEventListener("online", onOnline);
    window.addEventListener("offline", probe);
    window.addEventListener("pagehide", onHide);
    document.addEventListener("visibilitychange", onVisible);
    this.#detach = () => {
      window.removeEventListener("online", onOnline);
      window.removeEventListener("offline", probe);
      window.removeEventListener("pagehide", onHide);
      document.removeEventListener("visibilitychange", onVisible);
    };
  }

  /** Keep a connection while one is wanted: while there is a session, or somebody waits for one. */
  async #run() {
    if (this.#isRunning) return;
    this.#isRunning = true;
    try {
      while (!this.#isClosed && !this.#ended && (this.#session || this.#waiters.size)) {
        this.#retryAfterMs = 0;
        const began = Date.now();
        const reason = await this.#serveOnce();
        if (this.#isClosed || this.#ended) break;
        if (!this.#session && !this.#waiters.size) break;
        if (Date.now() - began >= LIMITS.stableMs) this.#backoff.reset();
        const waitMs = this.#backoff.next(this.#retryAfterMs);
        this.#setState({ name: "reconnecting", retryAt: Date.now() + waitMs, reason });
        const abort = new AbortController();
        this.#wake = () => abort.abort();
        await delay(waitMs, abort.signal);
        this.#wake = () => {};
      }
    } finally {
      this.#isRunning = false;
      if (!this.#ended && this.#state.name !== "offline") this.#setState({ name: "offline" });
    }
  }

  async #serveOnce() {
    this.#setState({ name: "connecting" });
    let connection;
    try {
      connection = await this.#open();
    } catch (error) {
      return error.message;
    }
    if (this.#isClosed) { connection.lose("closed by this side"); return connection.reason; }
    const hello = connection.request(Command.HELLO, { client: "imserver-js", version: "1" }, this.#timeoutMs,
      (answer) => { this.#server = pick(answer, ["server", "version", "max_frame", "heartbeat_ms", "time"]); connection.setHeartbeat(answer.heartbeat_ms || 30_000); });
    hello.catch(() => {}); // the connection works without it; if it is lost, `lost` tells
    this.#connection = connection;
    if (!this.#session || await this.#authenticate(connection)) {
      if (!connection.isLoggedIn) this.#settleWaiters();
      await connection.leaving;
      if (!connection.isLost) {
        const graceEnd = Date.now() + LIMITS.goawayGraceMs;
        while (!connection.isLost && connection.inFlight && Date.now() < graceEnd) await delay(20);
      }
    }
    connection.lose("left");
    if (this.#connection === connection) this.#connection = null;
    this.#working = false;
    this.#isSynced = false;
    this.#sending.clear();
    for (const one of [...this.#streams.values()]) this.#endStream(one, "aborted"); // the whole of it comes as a message
    return connection.reason;
  }

  #open() {
    return new Promise((resolve, reject) => {
      const socket = new this.#WebSocket(this.#url, ["imserver.v1"]);
      const timer = setTimeout(() => { socket.onopen = socket.onclose = null; socket.close(); reject(new Error("the server does not answer")); }, 10_000);
      socket.onerror = () => {}; // `close` follows
      socket.onclose = () => { clearTimeout(timer); reject(new Error("the server cannot be reached")); };
      socket.onopen = () => { clearTimeout(timer); resolve(new Connection(socket, (connection, command, body) => this.#pushed(connection, command, body))); };
    });
  }

  /** Log a new connection in with the token. @returns {Promise<boolean>} */
  async #authenticate(connection) {
    const auth = () => connection.request(Command.AUTH, { token: this.#session.token, ...this.#loginFields() }, 10_000,
      (answer) => { this.#session.expires_at = answer.expires_at ?? this.#session.expires_at; this.#loggedIn(connection, answer); });
    try {
      if (this.#isTokenDead) await this.#refresh(connection);
      try {
        await auth();
      } catch (error) {
        if (error.code !== 401) throw error;
        this.#isTokenDead = true;
        await this.#refresh(connection);
        await auth();
      }
      return true;
    } catch (error) {
      if (error.code === 0 || RETRIABLE_CODES.has(error.code) || error.code === 500) {
        this.#retryAfterMs = error.retryAfterMs ?? 0;
      } else {
        await this.#end(error.code === 401 ? "unauthenticated" : error.error, error.message);
      }
      connection.lose(error.message);
      return false;
    }
  }

  #loggedIn(connection, answer) {
    connection.isLoggedIn = true;
    this.#isTokenDead = false;
    connection.setHeartbeat(answer.heartbeat_ms || 30_000);
    if (answer.server_time) this.#skewMs = answer.server_time - Date.now();
    this.#supported.clear();
    this.#setState({ name: "online" });
    if (answer.sync && !answer.sync.code) this.#synced(answer.sync);
    else { this.#cursor = ""; this.#wantsSync = true; } // the cursor is refused: look through everything
    this.#planRefresh();
    this.#settleWaiters();
    if (this.#watched.size) this.request(Command.WATCH_PRESENCE, { user_ids: [...this.#watched] }).then((got) => this.#presence(got), (error) => this.#background(error));
    this.#work();
    this.#flushReads();
    this.#pump();
  }

  async #end(reason, message) {
    this.#ended = new ImError(0, "ended", message || reason);
    this.#ended.reason = reason;
    this.#setState({ name: "ended", reason });
    this.#endWaiters(this.#ended);
    for (const entry of this.#outbox.values()) entry.reject(this.#ended);
    if (reason !== "replaced") {
      this.#session = null;
      await this.#drop("session");
      this.#emit("session", null);
    }
    this.#emit("ended", { reason, message });
  }

  /** Wait for a connection, logged in or not. */
  #connected(timeoutMs, { loggedIn = false } = {}) {
    const isReady = () => this.#connection?.isUsable && (!loggedIn || this.#connection.isLoggedIn);
    if (isReady()) return Promise.resolve(this.#connection);
    if (this.#ended) return Promise.reject(this.#ended);
    if (this.#isClosed) return Promise.reject(new ImError(0, "ended", "the client is closed"));
    if (this.#waiters.size >= LIMITS.requests) return Promise.reject(new ImError(0, "too_many_requests", "too many requests wait for a connection"));
    return new Promise((resolve, reject) => {
      const waiter = {
        settle: () => { if (isReady()) { end(); resolve(this.#connection); } },
        fail: (error) => { end(); reject(error); },
      };
      const end = () => { clearTimeout(timer); this.#waiters.delete(waiter); };
      const timer = setTimeout(() => waiter.fail(new ImError(0, "request_timeout", "there is no connection to the server", { isUnknown: false })), Math.max(1, Math.min(timeoutMs, 2 ** 31 - 1)));
      this.#waiters.add(waiter);
      this.#run();
    });
  }

  #online(timeoutMs) { return this.#connected(timeoutMs, { loggedIn: true }); }
  #settleWaiters() { for (const waiter of [...this.#waiters]) waiter.settle(); }
  #endWaiters(error) { for (const waiter of [...this.#waiters]) waiter.fail(error); }
  #background(error) { if (error.error !== "connection_lost" && error.error !== "ended" && error.error !== "unknown_command") this.#emit("problem", { error }); }

  // ------------------------------------------------------------------ requests

  /**
   * Make any request of the protocol. It waits for the connection, and is asked again where that does no harm.
   * @param {number} command @param {object} [body] without `rid`
   * @param {{timeoutMs?: number, isRepeatable?: boolean}} [options] @returns {Promise<any>} the answer
   */
  async request(command, body = {}, options = {}) {
    const deadline = Date.now() + (options.timeoutMs ?? this.#timeoutMs);
    const isRepeatable = options.isRepeatable ?? REPEATABLE.has(command);
    const backoff = new Backoff({ minMs: 200, random: this.#random });
    for (;;) {
      if (this.#supported.get(command) === false) throw new ImError(404, "unknown_command", "this server does not know the command", { command });
      const connection = await this.#connected(deadline - Date.now(), { loggedIn: !WITHOUT_LOGIN.has(command) });
      if (connection.inFlight >= LIMITS.requests) throw new ImError(0, "too_many_requests", "too many requests wait for their answers");
      try {
        const answer = await connection.request(command, body, Math.max(1, deadline - Date.now()));
        this.#supported.set(command, true);
        return answer;
      } catch (error) {
        if (error.error === "unknown_command") this.#supported.set(command, false);
        const waitMs = backoff.next(error.retryAfterMs ?? 0);
        const canRepeat = isRepeatable && Date.now() + waitMs < deadline && !this.#ended
          && (error.error === "connection_lost" || RETRIABLE_CODES.has(error.code));
        if (!canRepeat) throw error;
        await delay(waitMs);
      }
    }
  }

  /**
   * Whether the server knows a command; it is asked once per connection, with a body that no command takes.
   * @param {number} command one that needs a field
   */
  async supports(command) {
    if (!this.#supported.has(command)) {
      try {
        await this.request(command, {}, { isRepeatable: true });
      } catch (error) {
        if (error.code === 0) throw error;
        if (!this.#supported.has(command)) this.#supported.set(command, error.error !== "unknown_command");
      }
    }
    return this.#supported.get(command) === true;
  }

  /** A request whose answer must have this shape. */
  async #ask(command, body, shape = {}) { return checked(await this.request(command, body), shape, command); }

  /** Ask for a sign of life. @returns {Promise<{server_time: number}>} */
  async ping() { return this.#ask(Command.HEARTBEAT, {}, { server_time: "number?" }); }

  // ------------------------------------------------------------------ users

  /** Profiles. @param {string[]} userIds @returns {Promise<User[]>} of those that exist */
  async users(userIds) { return (await this.#ask(Command.GET_USER, { user_ids: userIds }, { users: "array" })).users; }

  /** Find users by id or nickname. @param {string} query @param {Paging} [options] @returns {Promise<{users: User[], next_cursor?: string}>} */
  async searchUsers(query, { limit = 20, cursor } = {}) { return this.#ask(Command.SEARCH_USERS, { query, limit, cursor }, { users: "array", next_cursor: "string?" }); }

  /** Change one's own profile; what is left out stays. @param {{nickname?: string, avatar?: string|null, bio?: string|null}} profile */
  async updateProfile(profile) { await this.#ask(Command.UPDATE_PROFILE, profile); }

  /** One's own sessions. @returns {Promise<Device[]>} */
  async devices() { return (await this.#ask(Command.LIST_DEVICES, {}, { devices: "array" })).devices; }

  /** End one of one's own sessions. @param {string} sessionId */
  async kickDevice(sessionId) { await this.#ask(Command.KICK_DEVICE, { session_id: sessionId }); }

  /** Who is online now. @param {string[]} userIds @returns {Promise<Presence[]>} */
  async presence(userIds) { return this.#presence(await this.#ask(Command.GET_PRESENCE, { user_ids: userIds }, { presence: "array" })); }

  /**
   * Watch who is online (event `presence`), through reconnects. Beyond `LIMITS.watched` users, the longest watched are let go.
   * @param {string[]} userIds @returns {Promise<Presence[]>} as it is now
   */
  async watchPresence(userIds) {
    for (const userId of userIds) { this.#watched.delete(userId); this.#watched.add(userId); }
    const dropped = [...this.#watched].slice(0, Math.max(0, this.#watched.size - LIMITS.watched));
    if (dropped.length) await this.unwatchPresence(dropped);
    return this.#presence(await this.#ask(Command.WATCH_PRESENCE, { user_ids: userIds }, { presence: "array?" }));
  }

  /** @param {string[]} userIds */
  async unwatchPresence(userIds) {
    for (const userId of userIds) this.#watched.delete(userId);
    await this.#ask(Command.WATCH_PRESENCE, { user_ids: userIds, unwatch: true });
  }

  #presence(answer) {
    for (const entry of answer.presence ?? []) this.#emit("presence", entry);
    return answer.presence ?? [];
  }

  // ------------------------------------------------------------------ conversations and their messages

  /**
   * A page of a conversation, ascending by `seq`; without bounds the newest.
   * @param {string} conversationId @param {{beforeSeq?: number, afterSeq?: number, limit?: number}} [bounds]
   * @returns {Promise<{messages: Message[], first_seq: number, last_seq: number}>}
   */
  async history(conversationId, { beforeSeq, afterSeq, limit = 50 } = {}) {
    return this.#ask(Command.PULL, { conversation_id: conversationId, limit, before_seq: beforeSeq, after_seq: afterSeq },
      { messages: "array", first_seq: "number", last_seq: "number" });
  }

  /** A page of the overview. The client does this by itself; `conversations` has the result. @param {Paging} [options] @returns {Promise<SyncPage>} */
  async sync({ limit = LIMITS.syncPage, cursor } = {}) {
    return this.#ask(Command.SYNC, { limit, cursor }, { conversations: "array", next_cursor: "string?", more: "boolean" });
  }

  /**
   * The present state of the messages that changed after `sinceRev`. The client does this by itself after an absence (event `changed`).
   * @param {string} conversationId @param {number} sinceRev @param {{limit?: number}} [options]
   * @returns {Promise<{messages: Message[], last_rev: number, more: boolean}>}
   */
  async changes(conversationId, sinceRev, { limit = LIMITS.page } = {}) {
    return this.#ask(Command.CHANGES, { conversation_id: conversationId, since_rev: sinceRev, limit }, { messages: "array", last_rev: "number", more: "boolean" });
  }

  /**
   * Find messages of one's own conversations.
   * @param {string} query
   * @param {Paging & {conversationId?: string, from?: string, since?: number, until?: number}} [options] times in ms
   * @returns {Promise<{messages: Message[], next_cursor?: string}>}
   */
  async search(query, { conversationId, from, since, until, limit = 50, cursor } = {}) {
    return this.#ask(Command.SEARCH, { query, conversation_id: conversationId, from, since, until, limit, cursor }, { messages: "array", next_cursor: "string?" });
  }

  /** Take a message back: one's own within the server's window, or any as a group's owner or admin. @param {string} conversationId @param {number} seq */
  async recall(conversationId, seq) {
    await this.#ask(Command.RECALL, { conversation_id: conversationId, seq });
    this.#changedHere(conversationId, seq, "recalled", { recalled: true, by: this.userId });
  }

  /** Change a message of one's own. @param {string} conversationId @param {number} seq @param {any} body @returns {Promise<{edited_at: number}>} */
  async edit(conversationId, seq, body) {
    const answer = await this.#ask(Command.EDIT, { conversation_id: conversationId, seq, body }, { edited_at: "number" });
    this.#changedHere(conversationId, seq, "edited", { body, edited_at: answer.edited_at, by: this.userId });
    return answer;
  }

  /** React to a message, or take a reaction back. @param {string} conversationId @param {number} seq @param {string} emoji @param {{remove?: boolean}} [options] */
  async react(conversationId, seq, emoji, { remove = false } = {}) {
    await this.#ask(Command.REACT, { conversation_id: conversationId, seq, emoji, ...(remove ? { remove } : {}) });
    if (!this.#tracks.has(conversationId)) return;
    try { // the answer does not tell the others' reactions
      const { messages: [now] } = await this.history(conversationId, { afterSeq: seq - 1, limit: 1 });
      if (now?.seq === seq) this.#changedHere(conversationId, seq, "reacted", { ...now, by: this.userId });
    } catch (error) {
      this.#background(error); // after the reconnect CHANGES tells
    }
  }

  /** The server pushes a change to all devices but the one that made it. */
  #changedHere(conversationId, seq, change, state) {
    const track = this.#tracks.get(conversationId);
    if (track) this.#showChange(track, seq, change, state);
  }

  /** Who has read a message. @param {string} conversationId @param {number} seq @returns {Promise<Receipts>} */
  async receipts(conversationId, seq) {
    const answer = await this.#ask(Command.RECEIPTS, { conversation_id: conversationId, seq }, { read: "array", unread_count: "number" });
    const track = this.#tracks.get(conversationId);
    if (track && !track.isGroup && answer.read.includes(track.toConversation().peer) && seq > track.peerRead) {
      track.peerRead = seq;
      this.#touched(track);
    }
    return answer;
  }

  /** Hide a conversation and its past from this user; a new message brings it back, without the past. @param {string} conversationId */
  async deleteConversation(conversationId) {
    await this.#ask(Command.DELETE_CONVERSATION, { conversation_id: conversationId });
    const track = this.#tracks.get(conversationId);
    if (!track) return;
    track.hide();
    this.#touched(track);
  }

  /** Mute or pin a conversation for this user. @param {string} conversationId @param {{muted?: boolean, pinned?: boolean}} [settings] @returns {Promise<Settings>} */
  async setConversation(conversationId, { muted, pinned } = {}) {
    const answer = await this.#ask(Command.CONVERSATION_SETTINGS, { conversation_id: conversationId, muted, pinned }, { muted: "boolean?", pinned: "boolean?" });
    const now = { muted: Boolean(answer.muted), pinned: Boolean(answer.pinned) };
    const track = this.#tracks.get(conversationId);
    if (track) this.#touched(Object.assign(track, now));
    return now;
  }

  /** Tell that the user is typing. Never answered, never repeated, let go while offline. @param {string} conversationId @param {boolean} [on] */
  typing(conversationId, on = true) {
    const connection = this.#connection;
    if (this.#supported.get(Command.TYPING) === false || !connection?.isUsable || !connection.isLoggedIn) return;
    connection.post(Command.TYPING, { conversation_id: conversationId, on });
  }

  // ------------------------------------------------------------------ friends

  /** Ask for a friendship; crossing requests make one at once (event `friend`). @param {string} userId @param {string} [message] @returns {Promise<{request_id: string}>} */
  async requestFriend(userId, message) { return this.#ask(Command.FRIEND_REQUEST, { user_id: userId, ...(message ? { message } : {}) }, { request_id: "string" }); }

  /** Accept or decline a request. @param {string} requestId @param {boolean} accept */
  async answerFriend(requestId, accept) { await this.#ask(Command.FRIEND_ANSWER, { request_id: requestId, accept }); }

  /** One's friends, by user id. @param {Paging} [options] @returns {Promise<{friends: Friend[], next_cursor?: string}>} */
  async friends({ limit = 50, cursor } = {}) { return this.#ask(Command.LIST_FRIENDS, { limit, cursor }, { friends: "array", next_cursor: "string?" }); }

  /**
   * Requests that one was sent (`in`) or has sent (`out`), the newest first.
   * @param {Paging & {direction?: "in"|"out", state?: "pending"|"accepted"|"declined"}} [options]
   * @returns {Promise<{requests: FriendRequest[], next_cursor?: string}>}
   */
  async friendRequests({ direction = "in", state, limit = 50, cursor } = {}) {
    return this.#ask(Command.LIST_FRIEND_REQUESTS, { direction, state, limit, cursor }, { requests: "array", next_cursor: "string?" });
  }

  /** End a friendship, on both sides. @param {string} userId */
  async deleteFriend(userId) { await this.#ask(Command.DELETE_FRIEND, { user_id: userId }); }
  /** Take no messages from a user any more. @param {string} userId */
  async block(userId) { await this.#ask(Command.BLOCK, { user_id: userId }); }
  /** @param {string} userId */
  async unblock(userId) { await this.#ask(Command.UNBLOCK, { user_id: userId }); }
  /** Whom one blocks. @param {Paging} [options] @returns {Promise<{users: User[], next_cursor?: string}>} */
  async blocked({ limit = 50, cursor } = {}) { return this.#ask(Command.LIST_BLOCKED, { limit, cursor }, { users: "array", next_cursor: "string?" }); }
  /** What this user calls a friend; "" takes it away. @param {string} userId @param {string} remark */
  async setRemark(userId, remark) { await this.#ask(Command.SET_REMARK, { user_id: userId, remark }); }

  // ------------------------------------------------------------------ groups

  /**
   * Make a group, as its owner.
   * @param {string} name
   * @param {{groupId?: string, members?: string[], join?: "open"|"approval"|"invite", history?: "joined"|"all"}} [options]
   * @returns {Promise<{group_id: string, conversation_id: string, failed?: Failed[]}>} `failed`: who could not be added
   */
  async createGroup(name, { groupId, members, join, history } = {}) {
    return this.#ask(Command.CREATE_GROUP, { name, group_id: groupId, members, join, history }, { group_id: "string", conversation_id: "string", failed: "array?" });
  }

  /** @param {string} groupId @returns {Promise<Group>} */
  async group(groupId) { return (await this.#ask(Command.GET_GROUP, { group_id: groupId }, { group: "object" })).group; }

  /**
   * Change a group; what is left out stays, null takes away. By its owner and its admins.
   * @param {string} groupId
   * @param {{name?: string, avatar?: string|null, announcement?: string|null, join?: "open"|"approval"|"invite", history?: "joined"|"all", muted?: boolean}} changes
   */
  async updateGroup(groupId, changes) { await this.#ask(Command.UPDATE_GROUP, { group_id: groupId, ...changes }); }

  /** End a group; by its owner. @param {string} groupId */
  async dismissGroup(groupId) { await this.#ask(Command.DISMISS_GROUP, { group_id: groupId }); }
  /** @param {string} groupId @param {string[]} userIds @returns {Promise<{added: string[], failed: Failed[]}>} */
  async addMembers(groupId, userIds) { return this.#ask(Command.ADD_MEMBERS, { group_id: groupId, user_ids: userIds }, { added: "array", failed: "array" }); }
  /** @param {string} groupId @param {string[]} userIds @returns {Promise<{removed: string[]}>} */
  async removeMembers(groupId, userIds) { return this.#ask(Command.REMOVE_MEMBERS, { group_id: groupId, user_ids: userIds }, { removed: "array" }); }
  /** @param {string} groupId */
  async leaveGroup(groupId) { await this.#ask(Command.LEAVE_GROUP, { group_id: groupId }); }
  /** By user id. @param {string} groupId @param {Paging} [options] @returns {Promise<{members: Member[], next_cursor?: string}>} */
  async members(groupId, { limit = 50, cursor } = {}) { return this.#ask(Command.LIST_MEMBERS, { group_id: groupId, limit, cursor }, { members: "array", next_cursor: "string?" }); }
  /** By the owner; the role `owner` hands the group over. @param {string} groupId @param {string} userId @param {Role} role */
  async setRole(groupId, userId, role) { await this.#ask(Command.SET_ROLE, { group_id: groupId, user_id: userId, role }); }
  /** Let a member not write for a time; 0 lifts it. @param {string} groupId @param {string} userId @param {number} durationMs @returns {Promise<{muted_until: number}>} */
  async muteMember(groupId, userId, durationMs) { return this.#ask(Command.MUTE_MEMBER, { group_id: groupId, user_id: userId, duration_ms: durationMs }, { muted_until: "number" }); }
  /** One's own groups. @param {Paging} [options] @returns {Promise<{groups: Group[], next_cursor?: string}>} */
  async groups({ limit = 50, cursor } = {}) { return this.#ask(Command.LIST_GROUPS, { limit, cursor }, { groups: "array", next_cursor: "string?" }); }
  /** Join an open group, or ask to. @param {string} groupId @param {string} [message] @returns {Promise<{joined?: boolean, request_id?: string}>} */
  async joinGroup(groupId, message) { return this.#ask(Command.JOIN_GROUP, { group_id: groupId, ...(message ? { message } : {}) }, { joined: "boolean?", request_id: "string?" }); }
  /** Let somebody in who has asked, or not; by the owner and the admins. @param {string} requestId @param {boolean} accept */
  async answerJoin(requestId, accept) { await this.#ask(Command.ANSWER_JOIN, { request_id: requestId, accept }); }

  // ------------------------------------------------------------------ receiving

  #track(conversationId) {
    let track = this.#tracks.get(conversationId);
    if (!track) {
      track = new Track(conversationId, this.userId);
      const saved = this.#saved[conversationId];
      if (saved) [track.got, track.head, track.rev, track.peerRead] = saved;
      this.#tracks.set(conversationId, track);
    }
    return track;
  }

  #pushed(connection, command, body) {
    switch (command) {
      case Command.GOAWAY: return this.#goAway(connection, body);
      case Command.MESSAGE: return this.#receive(body);
      case Command.MESSAGE_CHANGED: return this.#changed(body);
      case Command.READ: return this.#peerRead(body);
      case Command.ERROR:
        if (body.error === "unknown_command" && body.command) this.#supported.set(body.command, false);
        else this.#emit("problem", { error: ImError.fromAnswer(body, body.command) });
        return;
      case Command.TYPING_PUSH: return this.#emit("typing", body);
      case Command.PRESENCE: return this.#emit("presence", body);
      case Command.FRIEND: return this.#emit("friend", body);
      case Command.GROUP: return this.#grouped(body);
      case Command.NOTIFY: return this.#emit("notify", body);
      case Command.HEARTBEAT: return;
      default: this.#emit("push", { command, body });
    }
  }

  #goAway(connection, { error, message = "", retry_after_ms: retryAfterMs = 0 }) {
    connection.reason = error;
    this.#retryAfterMs = retryAfterMs;
    if (error === "token_expired") this.#isTokenDead = true;
    if (connection.isLoggedIn && (error === "replaced" || error === "kicked")) this.#end(error, message).catch((fault) => this.#background(fault));
    connection.leave();
  }

  #receive(message) {
    if (message.streaming) return this.#grows(message, 0, "");
    if (!message.seq) return this.#emit("message", message); // not stored: now or never
    const track = this.#track(message.conversation_id);
    if (track.got === null && message.seq !== 1) this.#wantsSync = true;
    if (message.rev && message.rev > track.rev && track.rev >= track.revTarget) track.rev = track.revTarget = message.rev;
    this.#deliver(track, track.arrived(message));
    if (track.isLagging || this.#wantsSync) this.#work();
  }

  /** Hand messages to the application, in this order; then they count as taken. */
  #deliver(track, messages) {
    for (const message of messages) {
      const sent = this.#outbox.get(message.client_id);
      if (sent && message.from === this.userId && sent.conversation_id === message.conversation_id) this.#accepted(sent, message);
      const growing = this.#streams.get(streamKey(message));
      if (growing) this.#endStream(growing, "done");
      this.#emit("message", message);
    }
    if (!messages.length) return;
    this.#acks.set(track.id, track.got);
    this.#ackTimer ??= setTimeout(() => this.#flushAcks(), this.#ackDelayMs);
    this.#touched(track);
  }

  #touched(track) {
    this.#emit("conversation", track.toConversation());
    this.#saveSoon();
  }

  #flushAcks() {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = null;
    const connection = this.#connection;
    if (!connection?.isUsable || !connection.isLoggedIn || !this.#acks.size) return; // the next login sends them
    const due = [];
    let room = (this.#server?.max_frame ?? Infinity) - 64; // for what is around them; a longer frame would cost the connection, each time
    for (const [id, seq] of this.#acks) {
      room -= id.length + `${seq}`.length + 4;
      if (due.length === LIMITS.acks || (due.length && room < 0)) break;
      due.push([id, seq]);
    }
    for (const [id] of due) this.#acks.delete(id);
    const owe = () => { for (const [id, seq] of due) this.#acks.set(id, Math.max(seq, this.#acks.get(id) ?? 0)); };
    connection.request(Command.PUSH_ACK, { acks: Object.fromEntries(due) }, this.#timeoutMs).catch((error) => {
      if (error.code === 0) return owe();
      if (RETRIABLE_CODES.has(error.code)) {
        owe();
        this.#ackTimer ??= setTimeout(() => this.#flushAcks(), (error.retryAfterMs ?? 0) + 1000);
      } else {
        this.#background(error); // one has left a group: nothing that repeating can mend, SYNC knows without it
      }
    });
    if (this.#acks.size) this.#ackTimer = setTimeout(() => this.#flushAcks(), this.#ackDelayMs);
  }

  /** A piece of a message that a bot is writing. It has no `seq` yet: it is shown, and the whole of it comes as a message. */
  #grows(body, offset, text) {
    const key = streamKey(body);
    let one = this.#streams.get(key);
    if (!one) {
      const { conversation_id, client_id, from, message_id } = body;
      one = { conversation_id, client_id, from, message_id, started_at: this.serverNow(), text: "", isWhole: true, state: "growing" };
      this.#streams.set(key, one);
      if (this.#streams.size > LIMITS.streams) this.#endStream(this.#streams.values().next().value, "aborted");
    }
    if (offset !== [...one.text].length) one.isWhole = false; // the server counts characters, not UTF-16's halves
    one.text = (one.text + text).slice(0, LIMITS.streamChars);
    this.#emit("stream", { ...one });
  }

  #endStream(one, state) {
    this.#streams.delete(streamKey(one));
    this.#emit("stream", { ...one, state });
  }

  #grouped(body) {
    const track = this.#tracks.get(`g:${body.group_id}`);
    const isMe = body.user_ids?.includes(this.userId);
    const isOut = body.event === "dismissed" || (isMe && (body.event === "removed" || body.event === "left"));
    if (track && (isOut || (isMe && body.event === "joined"))) {
      track.isLeft = isOut;
      this.#touched(track);
    }
    this.#emit("group", body);
  }

  #changed(body) {
    if (body.change === "appended") return this.#grows(body, body.offset ?? 0, body.text ?? "");
    if (body.change === "aborted") {
      const growing = this.#streams.get(streamKey(body));
      return growing && this.#endStream(growing, "aborted");
    }
    const track = this.#track(body.conversation_id);
    if (track.rev < track.revTarget) { track.revTarget = Math.max(track.revTarget, body.rev ?? 0); return this.#work(); }
    if (body.rev) track.rev = track.revTarget = Math.max(track.rev, body.rev);
    this.#showChange(track, body.seq, body.change, body);
  }

  #showChange(track, seq, change, state) {
    if (track.early.has(seq)) track.early.delete(seq); // it is pulled again, in its new state
    if (track.got === null || seq > track.got) { track.noteChange(seq, state.rev); track.head = Math.max(track.head, seq); return this.#work(); }
    if (state.recalled) { track.recalled(seq); if (track.isUncertain) this.#wantsSync = true; }
    const changed = { conversation_id: track.id, seq, change: change ?? (state.recalled ? "recalled" : state.edited_at ? "edited" : "reacted"),
      message: presentState({ ...state, conversation_id: track.id, seq }, change), ...(typeof state.by === "string" ? { by: state.by } : {}) };
    if (track.last?.seq === seq) track.last = applyChange(track.last, changed);
    this.#emit("changed", changed);
    this.#touched(track);
    if (this.#wantsSync) this.#work();
  }

  #peerRead({ conversation_id: id, user_id: userId, seq }) {
    const track = this.#track(id);
    if (userId === this.userId) {
      track.read(seq);
      if (track.isUncertain) { this.#wantsSync = true; this.#work(); }
    } else if (!track.isGroup) {
      track.peerRead = Math.max(track.peerRead, seq);
    }
    this.#emit("read", { conversation_id: id, user_id: userId, seq });
    this.#touched(track);
  }

  /** A page of SYNC. The cursor moves with the heads: nothing between two pages is forgotten. */
  #synced(page) {
    for (const entry of page.conversations) {
      const track = this.#track(entry.conversation_id);
      const isNew = track.got === null;
      // Every new message and every change takes one `rev`: as many revisions as messages means no change.
      const hasChanges = track.isLagging || track.early.size > 0 || (entry.last_rev ?? 0) - track.rev !== entry.last_seq - (track.got ?? 0);
      track.synced(entry);
      if (isNew) {
        track.begin(this.#beginning(entry));
        track.rev = track.revTarget = entry.last_rev ?? 0;
        this.#deliver(track, track.settle());
      } else {
        if (track.head - track.got > this.#skipBeyond) {
          track.skip();
          track.rev = track.revTarget = entry.last_rev ?? 0;
          this.#acks.set(track.id, track.got);
          this.#ackTimer ??= setTimeout(() => this.#flushAcks(), this.#ackDelayMs);
          this.#emit("gap", { conversation_id: track.id });
        }
        track.revTarget = Math.max(track.revTarget, entry.last_rev ?? 0);
        if (!hasChanges) track.rev = track.revTarget;
      }
      this.#touched(track);
    }
    if (page.next_cursor) this.#cursor = page.next_cursor;
    this.#wantsSync = Boolean(page.more);
    if (page.more) return;
    this.#hasSynced = true;
    this.#isFirstSync = false;
    for (const track of this.#tracks.values()) {
      // Pushed, and SYNC does not list it: begin with what was pushed.
      if (track.got === null && track.early.size) this.#deliver(track, (track.begin(Math.min(...track.early.keys()) - 1), track.settle()));
    }
  }

  #beginning(entry) {
    if (this.#history === "all") return 0;
    if (this.#hasSynced) return entry.delivered_seq; // it came into being while we were here or away: nothing of it was seen
    if (this.#history === "new") return entry.last_seq;
    return this.#history === "unread" ? Math.max(entry.read_seq, entry.delivered_seq) : entry.delivered_seq;
  }

  /** Fetch what is missing, one request at a time, until nothing is. */
  async #work() {
    const connection = this.#connection;
    if (this.#working || !connection?.isLoggedIn) return;
    this.#working = true;
    const backoff = new Backoff({ minMs: 200, random: this.#random });
    try {
      while (connection.isUsable && !this.#isClosed) {
        try {
          if (!await this.#fetchOne(connection)) break;
          backoff.reset();
        } catch (error) {
          if (error.error === "connection_lost") return;
          this.#background(error);
          await delay(backoff.next(error.retryAfterMs ?? 0));
        }
      }
    } finally {
      if (this.#connection === connection) this.#working = false;
    }
    if (connection.isUsable && this.#connection === connection && !this.#isSynced) {
      this.#isSynced = true;
      this.#emit("synced");
    }
  }

  async #fetchOne(connection) {
    const ask = (command, body, onAnswer) => connection.request(command, body, this.#timeoutMs, onAnswer);
    if (this.#wantsSync) {
      this.#wantsSync = false;
      try {
        await ask(Command.SYNC, { limit: LIMITS.syncPage, ...(this.#cursor ? { cursor: this.#cursor } : {}) }, (page) => this.#synced(page));
      } catch (error) {
        this.#wantsSync = true;
        if (error.code !== 400 || error.field !== "cursor" || !this.#cursor) throw error;
        this.#cursor = ""; // the server does not take it any more
      }
      return true;
    }
    // Changes go before messages, so that they find the old ones only.
    for (const track of this.#tracks.values()) {
      if (track.rev < track.revTarget) { await this.#fetchChanges(ask, track); return true; }
    }
    for (const track of this.#tracks.values()) {
      if (!track.isLagging) continue;
      this.#tracks.delete(track.id); // to the end: each conversation has its turn
      this.#tracks.set(track.id, track);
      await this.#pull(ask, track);
      return true;
    }
    return false;
  }

  async #pull(ask, track) {
    const { got, head } = track;
    track.pull(true);
    try {
      await ask(Command.PULL, { conversation_id: track.id, after_seq: got, limit: LIMITS.page }, (page) => {
        track.head = Math.max(track.head, page.last_seq);
        // What the answer leaves out (expired, before one joined) does not exist for this user.
        for (const message of page.messages) {
          if (message.seq <= got) continue;
          if (track.isOvertaken(message)) break; // it and what follows is pulled again
          this.#deliver(track, track.advance(message.seq - 1));
          this.#deliver(track, track.arrived(message));
        }
        if (!page.messages.length) this.#deliver(track, track.advance(head));
      });
    } catch (error) {
      if (error.code !== 403 && error.code !== 404) throw error;
      this.#deliver(track, track.advance(head)); // no longer a member: go on after it
    } finally {
      track.pull(false);
    }
    this.#touched(track);
  }

  async #fetchChanges(ask, track) {
    const since = track.rev;
    try {
      await ask(Command.CHANGES, { conversation_id: track.id, since_rev: since, limit: LIMITS.page }, (page) => {
        const states = [...page.messages].sort((a, b) => a.rev - b.rev);
        track.rev = page.more ? Math.max(since, states.at(-1)?.rev ?? 0) : Math.max(track.revTarget, page.last_rev ?? 0);
        if (track.rev === since) track.rev = track.revTarget; // an answer that leads nowhere ends the chase
        for (const state of states) {
          // One without a mark is told as well: its last reaction may have been taken back.
          if (state.seq <= track.got || track.early.has(state.seq)) this.#showChange(track, state.seq, undefined, state);
        }
      });
    } catch (error) {
      if (error.code !== 403 && error.code !== 404) throw error;
      track.rev = track.revTarget;
    }
  }

  // ------------------------------------------------------------------ read state

  /** The user has read a conversation up to `seq` (default: all of it). Kept and told to the server when there is one. */
  markRead(conversationId, seq) {
    const track = this.#tracks.get(conversationId);
    if (!track) return;
    const upto = seq ?? track.head;
    if (!track.read(upto)) return;
    this.#reads.set(conversationId, upto);
    this.#touched(track);
    this.#flushReads();
  }

  async #flushReads() {
    if (this.#isReading) return;
    this.#isReading = true;
    try {
      while (this.#reads.size && this.isOnline) {
        const [id, seq] = this.#reads.entries().next().value;
        try {
          await this.request(Command.MARK_READ, { conversation_id: id, seq });
        } catch (error) {
          if (error.code === 0 || RETRIABLE_CODES.has(error.code)) return; // the next login or read tries again
          this.#background(error);
        }
        if (this.#reads.get(id) === seq) this.#reads.delete(id);
        const track = this.#tracks.get(id);
        if (track?.isUncertain) { this.#wantsSync = true; this.#work(); }
      }
    } finally {
      this.#isReading = false;
      this.#saveSoon();
    }
  }

  // ------------------------------------------------------------------ sending

  /**
   * Send a message. It is kept in the store until the server has it on its disk: connections, reloads and a busy server
   * may come in between. Messages to one conversation go one by one, in the order of these calls.
   * @param {string} to a user id or a conversation id
   * @param {any} body a string for type `text`, else any JSON value
   * @param {{type?: string, replyTo?: number, mentions?: string[], expiresInMs?: number, clientId?: string}} [options]
   * @returns {Promise<Message>} the message as accepted
   * @throws {ImError} it was refused; it stays in `outgoing` as `failed` until `resend` or `discard`
   */
  send(to, body, options = {}) {
    if (!this.userId) return Promise.reject(new ImError(401, "unauthenticated", "log in first"));
    const entry = {
      client_id: options.clientId ?? `${this.#deviceId.slice(0, 16)}.${randomId()}`,
      conversation_id: to.startsWith("d:") || to.startsWith("g:") ? to : directId(this.userId, to),
      ...(to.startsWith("d:") || to.startsWith("g:") ? {} : { to }),
      type: options.type ?? "text", body, ...(options.replyTo ? { reply_to: options.replyTo } : {}),
      ...(options.mentions?.length ? { mentions: options.mentions } : {}), ...(options.expiresInMs ? { expires_in_ms: options.expiresInMs } : {}),
      created_at: this.serverNow(), status: "pending", bytes: 0,
    };
    entry.bytes = JSON.stringify(entry).length;
    const bytes = [...this.#outbox.values()].reduce((sum, one) => sum + one.bytes, entry.bytes);
    if (this.#outbox.size >= this.#maxOutbox || bytes > this.#maxOutboxBytes) {
      return Promise.reject(new ImError(0, "outbox_full", "too many unsent messages"));
    }
    return new Promise((resolve, reject) => {
      this.#outbox.set(entry.client_id, Object.assign(entry, { resolve, reject }));
      this.#outgoingChanged(entry);
      queueMicrotask(() => this.#pump()); // the entry is in the store first, once for a burst of calls
    });
  }

  /**
   * Send many messages in one request, without the outbox: for programs that keep them themselves. Each has a result of its own.
   * @param {{to?: string, conversation_id?: string, body: any, type?: string, client_id?: string, reply_to?: number, mentions?: string[]}[]} messages
   *   100 at most; give each a `client_id` if you may have to send it again
   * @returns {Promise<{code: number, error?: string, conversation_id?: string, seq?: number, message_id?: string, sent_at?: number, duplicate?: boolean}[]>}
   */
  async sendBatch(messages) {
    const bodies = messages.map((one) => ({ client_id: randomId(), type: "text", ...one }));
    const answer = await this.request(Command.SEND_BATCH, { messages: bodies }, { isRepeatable: true });
    const { results } = checked(answer, { results: "array" }, Command.SEND_BATCH);
    for (const [index, result] of results.entries()) {
      if (result.code || !result.seq) continue;
      this.#receive({ ...pick(bodies[index], ["client_id", "type", "body", "reply_to", "mentions"]), ...pick(result, ["conversation_id", "seq", "message_id", "sent_at"]),
        from: this.userId, rev: 0 });
    }
    return results;
  }

  /** Send a message to whoever is online, without storing it (no `seq`, no history). */
  async sendFleeting(to, body, { type = "custom" } = {}) {
    const target = to.startsWith("d:") || to.startsWith("g:") ? { conversation_id: to } : { to };
    return this.request(Command.SEND, { ...target, body, type, client_id: randomId(), store: false });
  }

  /** Try a failed message again, at the end of its conversation's line. */
  resend(clientId) {
    const entry = this.#outbox.get(clientId);
    if (entry?.status !== "failed") return;
    this.#outbox.delete(clientId);
    this.#outbox.set(clientId, entry);
    entry.status = "pending";
    if (entry.error?.error === "too_old") delete entry.sent_at; // whoever asks for it knows that it may come twice
    delete entry.error;
    this.#outgoingChanged(entry);
    this.#pump();
  }

  /** Give up a message that is not on its way: one that failed, or that waits for the connection. */
  discard(clientId) {
    const entry = this.#outbox.get(clientId);
    if (!entry || this.#sending.has(clientId)) return false;
    this.#outbox.delete(clientId);
    entry.reject(new ImError(0, "aborted", "discarded"));
    this.#outgoingChanged(entry, null);
    return true;
  }

  #outgoingChanged(entry, now = entry) {
    this.#outboxDirty = true;
    if (now) this.#save(); else this.#saveSoon();
    this.#emit("outgoing", { client_id: entry.client_id, outgoing: now && publicOutgoing(now) });
  }

  /** Put the head of each conversation's line on its way. */
  #pump() {
    const connection = this.#connection;
    if (!connection?.isLoggedIn || !connection.isUsable) return;
    const busy = new Set();
    let nextAt = Infinity;
    for (const entry of this.#outbox.values()) {
      if (entry.status === "failed" || busy.has(entry.conversation_id)) continue;
      busy.add(entry.conversation_id);
      if (this.#sending.has(entry.client_id)) continue;
      if (entry.not_before > Date.now()) { nextAt = Math.min(nextAt, entry.not_before); continue; }
      if (this.#sending.size >= LIMITS.sendsInFlight) break;
      this.#sendOne(connection, entry);
    }
    clearTimeout(this.#pumpTimer);
    if (nextAt < Infinity) this.#pumpTimer = setTimeout(() => this.#pump(), nextAt - Date.now() + 1);
  }

  async #sendOne(connection, entry) {
    if (entry.sent_at && Date.now() - entry.sent_at > LIMITS.resendForMs) {
      return this.#refused(entry, new ImError(0, "too_old", "it was sent long ago, and whether it arrived is not known", { isUnknown: true }));
    }
    if (!entry.sent_at) {
      entry.sent_at = Date.now();
      this.#outboxDirty = true;
      this.#saveSoon();
    }
    this.#sending.add(entry.client_id);
    const body = pick(entry, ["client_id", "type", "body", "reply_to", "mentions", "expires_in_ms"]);
    if (entry.to) body.to = entry.to; else body.conversation_id = entry.conversation_id;
    try {
      await connection.request(Command.SEND, body, this.#timeoutMs, (answer) => {
        this.#sendBackoff.reset();
        const message = { ...pick(entry, ["conversation_id", "client_id", "type", "body", "reply_to", "mentions"]), seq: answer.seq,
          message_id: answer.message_id, from: this.userId, sent_at: answer.sent_at, rev: 0 };
        if (this.#outbox.has(entry.client_id)) this.#accepted(entry, message);
        this.#receive(message);
      });
    } catch (error) {
      if (!this.#outbox.has(entry.client_id)) return; // it has come back by PULL
      if (error.code === 0) { // no answer: again with the same client_id, on the next connection or this one
        if (!connection.isLost) { connection.check(5000); entry.not_before = Date.now() + this.#sendBackoff.next(); }
      } else if (RETRIABLE_CODES.has(error.code) || error.code === 401) {
        entry.not_before = Date.now() + this.#sendBackoff.next(error.retryAfterMs ?? 0);
      } else {
        this.#refused(entry, error);
      }
    } finally {
      if (this.#connection === connection) this.#sending.delete(entry.client_id);
    }
    this.#pump();
  }

  #accepted(entry, message) {
    this.#outbox.delete(entry.client_id);
    this.#sending.delete(entry.client_id);
    entry.resolve(message);
    this.#outgoingChanged(entry, null);
  }

  #refused(entry, error) {
    entry.status = "failed";
    entry.error = pick(error, ["code", "error", "message"]);
    entry.reject(error);
    this.#outgoingChanged(entry);
  }

  // ------------------------------------------------------------------ files

  #httpUrl(path) { return this.#url.replace(/^ws/, "http").replace(/\/ws([?#].*)?$/, "") + path; }

  /**
   * Upload a file; send its answer as the body of a message of type `image`, `file`, `audio` or `video`. A large one goes on
   * where it stopped when the connection goes and comes back.
   * @param {Blob & {name?: string}} blob @param {{name?: string, onProgress?: (sent: number, total: number) => void, signal?: AbortSignal}} [options]
   * @returns {Promise<{file_id: string, name: string, size: number, type: string, url: string}>}
   */
  async upload(blob, options = {}) {
    const headers = { "Content-Type": blob.type || "application/octet-stream", "X-File-Name": encodeURIComponent(options.name ?? blob.name ?? "file") };
    if (blob.size <= LIMITS.wholeUploadBytes) {
      return this.#authorized((token) => this.#transfer("POST", "/v1/files", blob, { ...headers, Authorization: `Bearer ${token}` }, options));
    }
    const opened = await this.#authorized((token) => this.#transfer("POST", "/v1/files", new Blob([]), {
      ...headers, Authorization: `Bearer ${token}`, "Upload-Length": String(blob.size) }, { signal: options.signal }));
    return this.#uploadParts(blob, opened, options);
  }

  /** @param {Blob} blob @param {any} opened @param {{onProgress?: (sent: number, total: number) => void, signal?: AbortSignal}} options */
  async #uploadParts(blob, opened, { onProgress, signal }) {
    const backoff = new Backoff({ minMs: 500, random: this.#random });
    let { offset } = opened;
    for (let idle = 0; ;) {
      const from = offset;
      try {
        const answer = await this.#authorized((token) => this.#transfer("PATCH", opened.upload_url, blob.slice(from),
          { Authorization: `Bearer ${token}`, "Content-Type": "application/octet-stream", "Upload-Offset": String(from) },
          { signal, onProgress: (sent) => onProgress?.(from + sent, blob.size) }));
        if (answer.url) return answer;
        offset = answer.offset;
      } catch (error) {
        const mayPass = error.error === "wrong_offset" || error.error === "upload_failed" || RETRIABLE_CODES.has(error.code);
        if (!mayPass || signal?.aborted) throw error;
        if (error.offset > offset) idle = 0; // some of it has arrived
        if (++idle > LIMITS.uploadAttempts) throw error;
        offset = error.offset ?? offset; // where the server stands; else it tells by `wrong_offset` at the next attempt
        if (error.error !== "wrong_offset") await delay(backoff.next(error.retryAfterMs ?? 0), signal);
      }
    }
  }

  /** One HTTP request that carries a file: by XMLHttpRequest where there is one, since `fetch` does not tell the progress. */
  async #transfer(method, path, blob, headers, options) {
    const url = this.#httpUrl(path);
    if (globalThis.XMLHttpRequest) return transferByXhr(method, url, blob, headers, options);
    const response = await this.#fetch(url, { method, body: blob, headers, signal: options.signal }).catch((error) => {
      throw new ImError(0, error.name === "AbortError" ? "aborted" : "upload_failed", error.message, { isUnknown: true });
    });
    if (!response.ok) throw await httpError(response);
    options.onProgress?.(blob.size, blob.size);
    return response.json();
  }

  /** Get a file's content. @param {string} fileId @param {{signal?: AbortSignal}} [options] @returns {Promise<Blob>} */
  async download(fileId, { signal } = {}) {
    return this.#authorized(async (token) => {
      const response = await this.#fetch(this.#httpUrl(`/v1/files/${encodeURIComponent(fileId)}`), { headers: { Authorization: `Bearer ${token}` }, signal }).catch(networkFault);
      if (!response.ok) throw await httpError(response);
      return response.blob();
    });
  }

  async #authorized(task) {
    if (!this.#session) throw new ImError(401, "unauthenticated", "log in first");
    try {
      return await task(this.#session.token);
    } catch (error) {
      if (error.code !== 401) throw error;
      await this.refresh();
      return task(this.#session.token);
    }
  }

  // ------------------------------------------------------------------ store

  async #loadState(userId) {
    const state = await this.#store.get("state");
    this.#tracks.clear();
    this.#outbox.clear();
    if (state?.user_id !== userId) return;
    this.#saved = state.positions ?? {};
    this.#cursor = state.cursor ?? "";
    this.#hasSynced = Boolean(state.has_synced);
    this.#reads = new Map(Object.entries(state.reads ?? {}));
    const outbox = await this.#store.get("outbox");
    for (const entry of outbox?.user_id === userId ? outbox.entries : []) {
      this.#outbox.set(entry.client_id, { ...entry, resolve: () => {}, reject: () => {} });
    }
    // Without a session there is nobody to whom `read` could apply; the tracks are made when SYNC or a push names them.
    if (this.#session) for (const [id, seq] of this.#reads) this.#track(id).readSeq = seq;
  }

  #saveSoon() { this.#saveTimer ??= setTimeout(() => this.#save(), 300); }

  /** Write what has changed. Positions are those that the application has been given: after a crash some may come again. */
  #save() {
    clearTimeout(this.#saveTimer);
    this.#saveTimer = null;
    if (!this.userId) return;
    const positions = { ...this.#saved };
    for (const track of this.#tracks.values()) if (track.got !== null) positions[track.id] = [track.got, track.head, track.rev, track.peerRead];
    this.#put("state", { user_id: this.userId, cursor: this.#cursor, has_synced: this.#hasSynced, positions, reads: Object.fromEntries(this.#reads) });
    if (!this.#outboxDirty) return;
    this.#outboxDirty = false;
    const entries = [...this.#outbox.values()].map(({ resolve: _resolve, reject: _reject, not_before: _notBefore, ...entry }) => entry);
    this.#put("outbox", { user_id: this.userId, entries });
  }

  #saveSession() {
    this.#put("session", this.#session);
    this.#emit("session", this.session);
  }

  /** One after another, in order; a store that fails costs what it should have kept, and is reported. */
  #put(key, value) { return this.#inStore(() => this.#store.set(key, value)); }
  #drop(key) { return this.#inStore(() => this.#store.remove(key)); }

  #inStore(task) {
    let result;
    try {
      result = task(); // at once where the store is synchronous: the page may be going
    } catch (error) {
      this.#emit("problem", { error });
      return this.#storeQueue;
    }
    if (!result?.then) return this.#storeQueue;
    const both = [this.#storeQueue, Promise.resolve(result).catch((error) => this.#emit("problem", { error }))];
    this.#storeQueue = Promise.all(both).then(() => {});
    return this.#storeQueue;
  }
}

const pick = (from, names) => Object.fromEntries(names.filter((name) => from[name] !== undefined).map((name) => [name, from[name]]));
const streamKey = (one) => `${one.conversation_id} ${one.from} ${one.client_id}`;
/** @returns {any} */
const publicOutgoing = (entry) => structuredClone(pick(entry, ["client_id", "conversation_id", "type", "body", "reply_to", "mentions", "created_at", "status", "error"]));

const networkFault = (error) => {
  throw new ImError(0, error.name === "AbortError" ? "aborted" : "connection_lost", error.message, { isUnknown: true });
};

async function httpError(response) {
  const answer = await response.json().catch(() => ({})); // a proxy's error page has no JSON: the status says enough
  return ImError.fromAnswer({ ...answer, code: answer.code ?? response.status, message: answer.message ?? response.statusText });
}

function transferByXhr(method, url, blob, headers, { onProgress, signal }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, url);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.upload.onprogress = (event) => onProgress?.(event.loaded, blob.size);
    request.onload = () => {
      const answer = request.response ?? {}; // a proxy's error page has no JSON: the status says enough
      if (request.status >= 200 && request.status < 300) return resolve(answer);
      reject(ImError.fromAnswer({ ...answer, code: answer.code || request.status, message: answer.message ?? request.statusText }));
    };
    request.onerror = () => reject(new ImError(0, "upload_failed", "the connection went during the upload", { isUnknown: true }));
    const stopped = () => reject(new ImError(0, "aborted", "the upload was stopped"));
    request.onabort = stopped;
    if (signal?.aborted) return stopped();
    signal?.addEventListener("abort", () => request.abort(), { once: true });
    request.send(blob);
  });
}
