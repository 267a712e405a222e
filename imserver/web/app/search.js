/** Search: conversations and people by name, messages by what they say, and a user id to write to. */
import { h, iconButton } from "/app/dom.js";
import { unlessPressed } from "/app/emitter.js";
import { addFriend } from "/app/friend-actions.js";
import { shortTime, t } from "/app/i18n.js";
import { arrows } from "/app/list-view.js";
import { avatar, explain, summary } from "/app/text.js";

const WAIT_MS = 250;
const LOCAL_CONVERSATIONS = 20; // looked through where the server has no search: their newest
const LOCAL_MESSAGES = 200; // messages each
const MAX_HITS = 50;

/**
 * Look through the newest messages of the newest conversations, for servers without SEARCH.
 * @param {import("/app/chat.js").Chat} chat @param {() => boolean} isCancelled
 */
async function searchHere(chat, query, isCancelled) {
  const wanted = query.toLocaleLowerCase();
  const hits = [];
  for (const one of chat.list().slice(0, LOCAL_CONVERSATIONS)) {
    if (isCancelled()) break;
    const { messages } = await chat.client.history(one.conversation_id, { limit: LOCAL_MESSAGES });
    hits.push(...messages.filter((message) => !message.recalled && summary(message, chat).toLocaleLowerCase().includes(wanted)));
  }
  return hits.sort((a, b) => b.sent_at - a.sent_at).slice(0, MAX_HITS);
}

export class SearchView {
  /** @param {import("/app/chat.js").Chat} chat @param {{onOpen: (id: string, seq?: number) => void, onPerson: (userId: string) => void}} actions */
  constructor(chat, actions) {
    Object.assign(this, { chat, actions });
    this.turn = 0;
    this.element = h("div", { class: "results", role: "region", "aria-label": t("search"), onkeydown: (event) => arrows(event, this.element) });
  }

  /** Show what is found; "" ends the search. */
  async show(query) {
    const turn = ++this.turn;
    const isCancelled = () => turn !== this.turn;
    if (!query) return;
    const { chat } = this;
    const small = query.toLocaleLowerCase();
    const chats = chat.list().filter((one) => `${chat.title(one)} ${one.peer ?? ""}`.toLocaleLowerCase().includes(small)).slice(0, 20);
    const found = { chats, people: [], messages: [], isBusy: true };
    const render = () => { if (!isCancelled()) this.#render(query, found); };
    render();
    await new Promise((resolve) => { setTimeout(resolve, WAIT_MS); });
    if (isCancelled()) return;
    const known = new Set(chats.map((one) => one.peer));
    const people = chat.client.searchUsers(query, { limit: 10 }).then(({ users }) => {
      for (const user of users) chat.people.set(user.user_id, user);
      found.people = users.filter((user) => user.user_id !== chat.me && !known.has(user.user_id));
    });
    const messages = (chat.features.search ? chat.client.search(query, { limit: MAX_HITS }).then((answer) => answer.messages) : searchHere(chat, query, isCancelled))
      .then((hits) => { found.messages = hits; });
    for (const task of [people, messages]) {
      task.catch((error) => { found.error = error; }).then(() => unlessPressed(render));
    }
    await Promise.allSettled([people, messages]);
    found.isBusy = false;
    unlessPressed(render);
  }

  /** Open the first result; without any, take the query for a user id. */
  first(query) {
    const button = this.element.querySelector("button");
    if (button) button.click();
    else this.actions.onPerson(query);
  }

  #render(query, found) {
    const { chat, actions } = this;
    const mayBeId = /^[A-Za-z0-9_.@-]{1,64}$/.test(query) && ![...found.people, ...found.chats.map((one) => ({ user_id: one.peer }))].some((one) => one.user_id === query);
    const section = (title, rows) => (rows.length ? [h("h3", { class: "results-title" }, title), h("ul", { class: "list list-static" }, rows)] : []);
    const isStranger = (id) => chat.features.friends && !chat.friends.get(id) && !chat.friends.requestTo(id);
    const row = (face, name, detail, time, onclick, more = null) => h("li", { class: "list-item" }, h("button", { type: "button", class: "list-row", onclick },
      h("span", { class: "list-face" }, face), h("span", { class: "list-text" },
        h("span", { class: "list-top" }, h("span", { class: "list-name", dir: "auto" }, name), time ? h("time", { class: "list-time" }, shortTime(time)) : null),
        h("span", { class: "list-bottom" }, h("span", { class: "list-last", dir: "auto" }, detail)))), more);
    const isEmpty = !found.chats.length && !found.people.length && !found.messages.length;
    this.element.replaceChildren(
      ...section(t("chats"), found.chats.map((one) => row(avatar(one.peer ?? one.conversation_id, chat.title(one)), chat.title(one), one.peer ? `@${one.peer}` : t("group"), 0, () => actions.onOpen(one.conversation_id)))),
      ...section(t("people"), [
        ...found.people.map((one) => row(avatar(one.user_id, one.nickname || one.user_id), one.nickname || one.user_id, `@${one.user_id}`, 0, () => actions.onPerson(one.user_id),
          isStranger(one.user_id) ? iconButton("personPlus", t("addFriendName", { name: chat.name(one.user_id) }), () => addFriend(chat, one.user_id), { class: "row-add" }) : null)),
        ...(mayBeId && !found.isBusy ? [row(avatar(query, query), t("startChatWith", { name: query }), t("userId"), 0, () => actions.onPerson(query))] : [])]),
      ...section(t("messages"), found.messages.map((message) => {
        const conversation = chat.conversation(message.conversation_id);
        const title = chat.title(conversation);
        const prefix = message.from === chat.me ? t("youPrefix") : conversation.kind === "group" ? `${chat.name(message.from)}: ` : "";
        return row(avatar(conversation.peer ?? message.conversation_id, title), title, [prefix, ...marked(excerpt(summary(message, chat), query), query)], message.sent_at, () => actions.onOpen(message.conversation_id, message.seq));
      })),
      ...(found.isBusy ? [h("p", { class: "notice", role: "status" }, t("searching"))] : []),
      ...(!found.isBusy && found.error ? [h("p", { class: "notice" }, explain(found.error))] : []),
      ...(!found.isBusy && isEmpty && !found.error ? [h("p", { class: "notice" }, t("nothingFound", { query }))] : []),
      ...(!found.isBusy && !chat.features.search ? [h("p", { class: "notice notice-small" }, t("searchPartly"))] : []));
  }
}

/** The part of a text around what was found. */
function excerpt(text, query) {
  const at = text.toLocaleLowerCase().indexOf(query.toLocaleLowerCase());
  return at > 30 ? `…${text.slice(at - 20)}` : text;
}

function marked(text, query) {
  const at = text.toLocaleLowerCase().indexOf(query.toLocaleLowerCase());
  if (at < 0) return [text];
  return [text.slice(0, at), h("mark", {}, text.slice(at, at + query.length)), text.slice(at + query.length)];
}
