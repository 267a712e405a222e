/** What this page knows of groups: what they are, who belongs to them, and why one does not any more. It knows no element. */
import { Lru } from "/app/emitter.js";
import { LIMITS, collect } from "/imserver.js";

const MAX_GROUPS = 500;
const MAX_MEMBERS = Math.min(2000, LIMITS.collected); // shown of one group

export class Groups {
  /** @param {import("/app/chat.js").Chat} chat its event `group` (group id) tells what has changed here */
  constructor(chat) {
    this.chat = chat;
    this.known = new Lru(MAX_GROUPS); // group id -> Group; null: asked, or not to be known
    this.lists = new Lru(20); // group id -> Member[]; null: asked
    this.farewells = new Lru(MAX_GROUPS); // group id -> {event, by}
    this.isLoaded = false; // one's own groups are here: what is missing is asked for one by one
    chat.client.on("group", (body) => this.#told(body));
    chat.client.on("synced", () => this.#load());
  }

  /** @returns {import("/imserver.js").Group|null|undefined} asked for where it is not here */
  get(id) {
    const group = this.known.get(id);
    if (group === undefined && this.isLoaded) this.refresh(id);
    return group;
  }

  role(id) { return this.known.get(id)?.role; }
  /** Whether the user may change the group and its plain members. */
  isInCharge(id) { return ["owner", "admin"].includes(this.role(id)); }

  /** Whether the user belongs to it, as far as is known: a group that is still being asked for counts. */
  isMember(id) {
    if (this.chat.client.conversation(`g:${id}`)?.left) return false;
    const group = this.known.get(id);
    return group ? Boolean(group.role) : !this.farewells.has(id);
  }

  async refresh(id) {
    if (!this.known.has(id)) this.known.set(id, null);
    try {
      const group = await this.chat.client.group(id);
      this.known.set(id, group);
      if (group.role) this.farewells.delete(id);
    } catch (error) {
      if (error.code === 0 || error.code === 429 || error.code === 503) { if (!this.known.get(id)) this.known.delete(id); return; } // the next look asks again
      this.#lose(id, { event: "unknown" });
    }
    this.#changed(id);
  }

  /** The members, the owner and the admins first. @returns {import("/imserver.js").Member[]|null} null: not here yet */
  members(id) {
    const list = this.lists.get(id);
    if (list === undefined) this.#list(id);
    return list ?? null;
  }

  async #list(id) {
    if (!this.lists.has(id)) this.lists.set(id, null);
    try {
      const members = await collect((cursor) => this.chat.client.members(id, { limit: 500, cursor }), "members", MAX_MEMBERS);
      const rank = { owner: 0, admin: 1, member: 2 };
      for (const one of members) if (!this.chat.people.get(one.user_id)) this.chat.people.set(one.user_id, one);
      this.lists.set(id, members.sort((a, b) => rank[a.role] - rank[b.role]));
    } catch (error) {
      if (!this.lists.get(id)) this.lists.delete(id);
      if (![0, 403, 404].includes(error.code)) this.chat.emit("problem", error);
      return;
    }
    this.#changed(id);
  }

  /** Remember why the user belongs to it no more. */
  #lose(id, why) {
    if (!this.farewells.has(id) || why.event !== "unknown") this.farewells.set(id, why);
    const group = this.known.get(id);
    this.known.set(id, group ? { ...group, role: undefined, join_requests: undefined } : null);
    this.lists.delete(id);
  }

  #told(body) {
    const { group_id: id, event, by } = body;
    const isMe = body.user_ids?.includes(this.chat.me);
    if (event === "dismissed" || (isMe && (event === "removed" || event === "left"))) {
      this.#lose(id, { event, by });
      return this.#changed(id);
    }
    if (isMe) this.farewells.delete(id);
    this.refresh(id);
    if (this.lists.has(id) && event !== "join_requested") this.#list(id);
  }

  /** After a login: all of one's own groups in a few requests; what has happened meanwhile was not pushed. */
  async #load() {
    let own = [];
    try {
      own = await collect((cursor) => this.chat.client.groups({ limit: 200, cursor }), "groups", MAX_GROUPS);
    } catch (error) {
      if (error.error !== "unknown_command") return; // not now: the next login asks again
    }
    for (const group of own) { this.known.set(group.group_id, group); this.farewells.delete(group.group_id); }
    if (own.length < MAX_GROUPS) {
      const ids = new Set(own.map((group) => group.group_id));
      for (const [id, group] of [...this.known]) if (group?.role && !ids.has(id)) this.#lose(id, { event: "unknown" });
    }
    this.isLoaded = true;
    const open = this.chat.openId?.startsWith("g:") ? this.chat.openId.slice(2) : null;
    for (const id of [...this.lists.keys()]) if (id === open) this.#list(id); else this.lists.delete(id);
    if (open) this.refresh(open);
    this.chat.emit("people");
    this.chat.listChanged();
  }

  #changed(id) {
    this.chat.emit("group", id);
    this.chat.emit("people");
    this.chat.listChanged();
  }
}
