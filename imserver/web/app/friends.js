/** One's friends, the requests that wait, and whom one blocks. It knows no element. */
import { collect } from "/imserver.js";

const SHOWN = 2000; // friends, requests, blocked users: of each at most
const WATCHED = 500;

export class Friends {
  /** @param {import("/app/chat.js").Chat} chat its event `friends` tells that something has changed here */
  constructor(chat) {
    this.chat = chat;
    /** @type {Map<string, import("/imserver.js").Friend>} */ this.all = new Map();
    /** @type {import("/imserver.js").FriendRequest[]} */ this.incoming = [];
    /** @type {import("/imserver.js").FriendRequest[]} */ this.outgoing = [];
    /** @type {Map<string, object>} */ this.blocked = new Map();
    this.isLoaded = false;
    this.turn = 0;
    chat.client.on("friend", (body) => { this.load(); chat.emit("friend-event", body); });
  }

  get(userId) { return this.all.get(userId); }
  isBlocked(userId) { return this.blocked.has(userId); }
  requestFrom(userId) { return this.incoming.find((one) => one.user_id === userId); }
  requestTo(userId) { return this.outgoing.find((one) => one.user_id === userId); }

  /** By what they are called. */
  sorted() {
    const name = (one) => this.chat.name(one.user_id);
    return [...this.all.values()].sort((a, b) => name(a).localeCompare(name(b)));
  }

  isOnline(userId) { return this.chat.presence.get(userId)?.online ?? this.all.get(userId)?.online ?? false; }

  /** Ask for all of it anew; the newest question's answer counts. */
  async load() {
    const { client } = this.chat;
    const turn = ++this.turn;
    try {
      const [friends, incoming, outgoing, blocked] = await Promise.all([
        collect((cursor) => client.friends({ limit: 500, cursor }), "friends", SHOWN),
        collect((cursor) => client.friendRequests({ direction: "in", state: "pending", limit: 200, cursor }), "requests", SHOWN),
        collect((cursor) => client.friendRequests({ direction: "out", state: "pending", limit: 200, cursor }), "requests", SHOWN),
        collect((cursor) => client.blocked({ limit: 500, cursor }), "users", SHOWN),
      ]);
      if (turn !== this.turn) return;
      this.all = new Map(friends.map((one) => [one.user_id, one]));
      Object.assign(this, { incoming, outgoing, isLoaded: true, blocked: new Map(blocked.map((one) => [one.user_id, one])) });
      for (const one of [...friends, ...incoming, ...outgoing, ...blocked]) if (!this.chat.people.get(one.user_id)) this.chat.people.set(one.user_id, one);
      this.#watch();
    } catch (error) {
      if (error.code !== 0) this.chat.emit("problem", error); // else: the next login asks again
      return;
    }
    this.#changed();
  }

  #watch() {
    const { chat } = this;
    const fresh = [...this.all.keys()].filter((id) => !chat.watched.has(id)).slice(0, WATCHED);
    if (!fresh.length || !chat.features.presence) return;
    for (const id of fresh) chat.watched.add(id);
    chat.client.watchPresence(fresh).catch((error) => { if (error.code !== 0) chat.emit("problem", error); });
  }

  /** Do something to one's friends, then look at all of it again. */
  async #then(task) {
    const result = await task;
    await this.load();
    return result;
  }

  request(userId, message) { return this.#then(this.chat.client.requestFriend(userId, message)); }
  answer(requestId, accept) { return this.#then(this.chat.client.answerFriend(requestId, accept)); }
  remove(userId) { return this.#then(this.chat.client.deleteFriend(userId)); }
  block(userId) { return this.#then(this.chat.client.block(userId)); }
  unblock(userId) { return this.#then(this.chat.client.unblock(userId)); }
  remark(userId, text) { return this.#then(this.chat.client.setRemark(userId, text)); }

  #changed() {
    this.chat.emit("friends");
    this.chat.emit("people");
    this.chat.listChanged();
  }
}
