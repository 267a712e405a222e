/** The model of the page: one client, its conversations, people and what is on its way. It knows no element. */
import { Command, ImClient } from "/imserver.js";
import { Emitter, Lru, oncePerFrame } from "/app/emitter.js";
import { Friends } from "/app/friends.js";
import { Groups } from "/app/groups.js";
import { t } from "/app/i18n.js";
import { Media, Upload } from "/app/media.js";
import { isForMe } from "/app/mentions.js";
import { Timeline } from "/app/timeline.js";

const MAX_TIMELINES = 12;
const MAX_PEOPLE = 2000;
const MAX_DRAFTS = 200;
const MAX_UPLOADS = 50;
const WATCHED = 200;
const TYPING_SHOWN_MS = 6000;
const TYPING_TOLD_MS = 3000;

/**
 * Events: `list` (conversations, people or presence changed), `timeline` (conversation id), `open` (conversation id or null),
 * `state`, `typing` (conversation id), `incoming` (message), `ended`, `problem`, `features`, `people`, `friends`, `friend-event`,
 * `group` (group id).
 */
export class Chat extends Emitter {
  constructor({ store, deviceId }) {
    super();
    this.client = new ImClient({ store, deviceId, history: "new", skipBeyond: 500 });
    this.media = new Media(this.client);
    this.timelines = new Lru(MAX_TIMELINES);
    this.people = new Lru(MAX_PEOPLE);
    this.groups = new Groups(this);
    this.friends = new Friends(this);
    this.mentioned = new Lru(MAX_PEOPLE); // conversation id -> seq of the last message that was for this user
    this.recallWithinMs = Infinity; // the server's window is learned when it first refuses
    this.drafts = new Lru(MAX_DRAFTS);
    this.replies = new Lru(MAX_DRAFTS);
    /** @type {Upload[]} */ this.uploads = [];
    this.typing = new Map(); // conversation id -> Map of user id -> timer
    this.presence = new Map();
    this.watched = new Set();
    this.features = {};
    this.openId = null;
    this.isSynced = false;
    this.wanted = new Set();
    this.lastTold = 0;
    this.listChanged = oncePerFrame(() => this.emit("list"));
    this.askPeople = oncePerFrame(() => this.#askPeople());
    this.#listen();
  }

  get me() { return this.client.userId; }

  #listen() {
    const { client } = this;
    client.on("state", (state) => { if (state.name !== "online") this.presence.clear(); this.emit("state", state); this.listChanged(); });
    client.on("conversation", (entry) => { this.listChanged(); if (entry.conversation_id === this.openId) this.emit("timeline", this.openId); });
    client.on("synced", () => { this.isSynced = true; this.listChanged(); this.#detect(); });
    client.on("message", (message) => this.#arrived(message));
    client.on("changed", (changed) => { this.timelines.get(changed.conversation_id)?.change(changed); this.emit("timeline", changed.conversation_id); });
    client.on("stream", ({ conversation_id: id }) => this.emit("timeline", id));
    client.on("gap", ({ conversation_id: id }) => {
      if (id === this.openId) this.timelines.get(id)?.loadNewest(); else this.timelines.delete(id);
    });
    client.on("outgoing", ({ client_id: clientId, outgoing }) => {
      if (outgoing?.status === "failed") this.emit("failed", outgoing);
      this.emit("timeline", outgoing?.conversation_id ?? this.openId, clientId);
      this.listChanged();
    });
    client.on("read", ({ conversation_id: id }) => this.emit("timeline", id));
    client.on("typing", (body) => this.#typing(body));
    client.on("presence", (entry) => { this.presence.set(entry.user_id, entry); this.listChanged(); });
    client.on("ended", (why) => this.emit("ended", why));
    client.on("problem", ({ error }) => this.emit("problem", error));
  }

  // ---------------------------------------------------------------- people and groups

  /** The name to show: never without the id where it matters who it is. */
  name(userId) {
    if (!userId) return ""; // the server's own messages
    const person = this.people.get(userId);
    if (person === undefined) { this.wanted.add(userId); this.askPeople(); }
    return this.friends.get(userId)?.remark || person?.nickname || userId;
  }

  /** A name within a sentence: the user is "You", or "you" where something is done to them. */
  called(userId, isObject = false) { return userId === this.me ? t(isObject ? "youObject" : "you") : this.name(userId); }

  title(conversation) {
    if (conversation.kind === "direct") return this.name(conversation.peer);
    const id = conversation.conversation_id.slice(2);
    return this.groups.get(id)?.name || id;
  }

  async #askPeople() {
    const ids = [...this.wanted].slice(0, 100);
    if (!ids.length || !this.client.isOnline) return;
    for (const id of ids) { this.wanted.delete(id); this.people.set(id, null); } // asked: not again by the next look
    try {
      for (const person of await this.client.users(ids)) this.people.set(person.user_id, person);
      this.emit("people");
      this.listChanged();
    } catch (error) {
      for (const id of ids) this.people.delete(id);
      if (error.code !== 0) this.emit("problem", error);
    }
    if (this.wanted.size) this.askPeople();
  }

  /** @returns {Promise<object|null>} the person, or null: there is none of this id */
  async findPerson(userId) {
    const [person] = await this.client.users([userId]);
    if (person) this.people.set(userId, person);
    return person ?? null;
  }

  // ---------------------------------------------------------------- what the server can do

  async #detect() {
    const names = { recall: Command.RECALL, edit: Command.EDIT, react: Command.REACT, search: Command.SEARCH, receipts: Command.RECEIPTS, presence: Command.WATCH_PRESENCE,
      groups: Command.GET_GROUP, friends: Command.FRIEND_REQUEST, settings: Command.CONVERSATION_SETTINGS, remove: Command.DELETE_CONVERSATION };
    try {
      for (const [name, command] of Object.entries(names)) this.features[name] = await this.client.supports(command);
    } catch (error) {
      if (error.code !== 0) this.emit("problem", error);
      return; // the connection went; the next login asks again
    }
    this.emit("features");
    this.listChanged();
    this.watchPeers();
    if (this.features.friends) this.friends.load();
    if (this.timelines.get(this.openId)?.isLoaded) this.#askRead(this.timelines.get(this.openId)); // opened before this was known: after a reload
  }

  watchPeers() {
    if (!this.features.presence) return;
    const peers = this.client.conversations.slice(0, WATCHED).map((one) => one.peer).filter((peer) => peer && !this.watched.has(peer));
    if (!peers.length) return;
    for (const peer of peers) this.watched.add(peer);
    this.client.watchPresence(peers).catch((error) => { if (error.code !== 0) this.emit("problem", error); });
  }

  // ---------------------------------------------------------------- messages

  #arrived(message) {
    if (!message.seq) return; // not stored: nothing that this page shows
    const id = message.conversation_id;
    const timeline = this.timelines.get(id);
    const isShown = timeline?.append(message);
    this.#stopTyping(id, message.from);
    if (isShown || timeline) this.emit("timeline", id);
    if (isForMe(this, message)) this.mentioned.set(id, message.seq);
    if (message.from !== this.me) this.emit("incoming", message);
    if (message.seq === 1) this.watchPeers();
  }

  /** Whether somebody has mentioned the user in what they have not read. */
  hasMention(id) { return (this.mentioned.get(id) ?? 0) > (this.client.conversation(id)?.read_seq ?? 0); }

  isRecallable(message) { return this.client.serverNow() - message.sent_at < this.recallWithinMs; }
  recallRefused(message) { this.recallWithinMs = Math.min(this.recallWithinMs, this.client.serverNow() - message.sent_at); }

  async deleteConversation(id) {
    await this.client.deleteConversation(id);
    this.timelines.delete(id);
    this.drafts.delete(id);
    this.listChanged();
    return true;
  }

  timeline(id) {
    let timeline = this.timelines.get(id);
    if (!timeline) {
      timeline = new Timeline(this.client, id, () => this.emit("timeline", id));
      this.timelines.set(id, timeline);
    }
    return timeline;
  }

  /** Open a conversation; `seq` is a message to show. */
  open(id, seq) {
    this.openId = id;
    if (id) {
      const timeline = this.timeline(id);
      const conversation = this.client.conversation(id);
      timeline.firstUnread = conversation?.unread ? conversation.read_seq + 1 : 0;
      if (seq) timeline.loadAround(seq).then(() => this.emit("reveal", seq));
      else if (!timeline.isLoaded || timeline.hasNewer) timeline.loadNewest().then(() => this.#askRead(timeline));
    }
    this.emit("open", id);
    this.listChanged();
  }

  /** Whether the peer has read one's last message: pushes tell it from now on, this is how it stands. */
  async #askRead(timeline) {
    const last = timeline.items.findLast((message) => message.from === this.me && !message.recalled);
    const conversation = this.client.conversation(timeline.id);
    if (!this.features.receipts || !last || conversation?.kind !== "direct" || last.seq <= conversation.peer_read_seq) return;
    try {
      await this.client.receipts(timeline.id, last.seq);
    } catch (error) {
      if (error.code !== 0) this.emit("problem", error);
    }
  }

  conversation(id) {
    if (!id) return null;
    const known = this.client.conversation(id);
    if (known) return known;
    const [first, second] = id.slice(2).split(":");
    return { conversation_id: id, kind: id.startsWith("g:") ? "group" : "direct", peer: first === this.me ? second : first,
      last_seq: 0, read_seq: 0, unread: 0, peer_read_seq: 0, last_message: null };
  }

  /** All conversations that have anything to show, newest first. */
  list() {
    const byId = new Map(this.client.conversations.map((one) => [one.conversation_id, one]));
    for (const one of this.client.outgoing) if (!byId.has(one.conversation_id)) byId.set(one.conversation_id, this.conversation(one.conversation_id));
    const last = new Map();
    for (const one of this.client.outgoing) last.set(one.conversation_id, one);
    return [...byId.values()].filter((one) => !one.hidden).map((one) => ({ ...one, pending: last.get(one.conversation_id) }))
      .map((one) => ({ ...one, time: Math.max(one.last_message?.sent_at ?? 0, one.pending?.created_at ?? 0) }))
      .filter((one) => one.time > 0 || one.kind === "group")
      .sort((a, b) => Number(b.pinned ?? false) - Number(a.pinned ?? false) || b.time - a.time);
  }

  unreadTotal() { return this.client.conversations.reduce((sum, one) => sum + (one.muted ? 0 : one.unread), 0); }
  growing(id) { return this.client.growing.filter((one) => one.conversation_id === id); }
  pending(id) { return this.client.outgoing.filter((one) => one.conversation_id === id); }
  uploadsOf(id) { return this.uploads.filter((one) => one.conversationId === id); }

  send(id, text, replyTo, mentions = []) {
    this.told(id, false);
    this.client.send(id, text, { replyTo, mentions }).catch((error) => {
      if (error.error === "outbox_full") this.emit("problem", error); // every other refusal is shown at the message
    });
  }

  upload(id, files) {
    for (const file of [...files].slice(0, MAX_UPLOADS - this.uploads.length)) {
      const upload = new Upload(this.client, this.media, id, file, (one) => {
        if (one.isDone) this.uploads = this.uploads.filter((other) => other !== one);
        this.emit("timeline", id);
      });
      this.uploads.push(upload);
      upload.run();
    }
    this.emit("timeline", id);
  }

  // ---------------------------------------------------------------- typing

  /** The user types, or has stopped. */
  told(id, on) {
    const now = Date.now();
    if (on && now - this.lastTold < TYPING_TOLD_MS) return;
    if (!on && !this.lastTold) return;
    this.lastTold = on ? now : 0;
    this.client.typing(id, on);
  }

  #typing({ conversation_id: id, user_id: userId, on }) {
    if (userId === this.me) return;
    this.#stopTyping(id, userId);
    if (on === false) return;
    if (!this.typing.has(id)) this.typing.set(id, new Map());
    if (this.typing.get(id).size < 20) this.typing.get(id).set(userId, setTimeout(() => this.#stopTyping(id, userId), TYPING_SHOWN_MS));
    this.emit("typing", id);
    this.listChanged();
  }

  #stopTyping(id, userId) {
    const timers = this.typing.get(id);
    if (!timers?.has(userId)) return;
    clearTimeout(timers.get(userId));
    timers.delete(userId);
    if (!timers.size) this.typing.delete(id);
    this.emit("typing", id);
    this.listChanged();
  }

  whoTypes(id) { return [...(this.typing.get(id)?.keys() ?? [])]; }

  close() {
    for (const upload of [...this.uploads]) upload.cancel();
    this.media.close();
    this.client.close();
  }
}
