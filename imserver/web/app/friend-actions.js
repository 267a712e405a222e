/** Asking for a friendship, finding friends, naming them. */
import { askText, attempt, openDialog } from "/app/dialog.js";
import { h, toast } from "/app/dom.js";
import { unlessPressed } from "/app/emitter.js";
import { t } from "/app/i18n.js";
import { avatar, explain } from "/app/text.js";

const WAIT_MS = 250;
const MAX_MESSAGE = 500;
const MAX_REMARK = 64;

/** Ask somebody, with a word if one likes. @param {import("/app/chat.js").Chat} chat */
export function addFriend(chat, userId) {
  askText({ title: t("addFriendName", { name: chat.name(userId) }), label: t("friendMessage"), maxLength: MAX_MESSAGE, isOptional: true, save: async (text) => {
    await chat.friends.request(userId, text);
    toast(t(chat.friends.get(userId) ? "nowFriends" : "requestSent", { name: chat.name(userId) }), { isError: false });
  } });
}

/** @param {import("/app/chat.js").Chat} chat */
export function remarkDialog(chat, userId) {
  askText({ title: t("setRemark"), label: t("remarkLabel", { name: chat.people.get(userId)?.nickname ?? userId }), value: chat.friends.get(userId)?.remark ?? "", maxLength: MAX_REMARK, isOptional: true,
    save: (text) => chat.friends.remark(userId, text) });
}

/** Look for people to ask. @param {import("/app/chat.js").Chat} chat */
export function findFriendsDialog(chat) {
  let turn = 0;
  let found = [];
  let note = t("findFriendsHint");
  const list = h("ul", { class: "picker-list", "aria-label": t("people") });
  const field = h("input", { type: "search", class: "input", name: "friend_query", placeholder: t("findPeople"), "aria-label": t("findPeople"), autocomplete: "off", autocapitalize: "none", spellcheck: "false", autofocus: true, oninput: () => search() });
  const render = () => {
    list.replaceChildren(...found.map((id) => h("li", { class: "person-row" }, avatar(id, chat.name(id), "avatar-small"),
      h("span", { class: "list-text" }, h("span", { class: "list-name", dir: "auto" }, chat.name(id)), h("span", { class: "list-last" }, `@${id}`)), state(id))), ...(note ? [h("li", { class: "notice" }, note)] : []));
  };
  const state = (id) => {
    if (chat.friends.get(id)) return h("span", { class: "panel-soft" }, t("friend"));
    if (chat.friends.requestTo(id)) return h("span", { class: "panel-soft" }, t("requestSent"));
    const asks = chat.friends.requestFrom(id);
    if (asks) return h("button", { type: "button", class: "button button-primary button-small", onclick: () => attempt(chat.friends.answer(asks.request_id, true)) }, t("accept"));
    return h("button", { type: "button", class: "button button-primary button-small", "aria-label": t("addFriendName", { name: chat.name(id) }), onclick: () => addFriend(chat, id) }, t("add"));
  };
  async function search() {
    const query = field.value.trim();
    const mine = ++turn;
    await new Promise((resolve) => { setTimeout(resolve, WAIT_MS); });
    if (mine !== turn) return;
    try {
      const { users } = query ? await chat.client.searchUsers(query, { limit: 30 }) : { users: [] };
      if (mine !== turn) return;
      for (const user of users) chat.people.set(user.user_id, user);
      found = users.map((user) => user.user_id).filter((id) => id !== chat.me);
      note = found.length ? null : query ? t("nothingFound", { query }) : t("findFriendsHint");
    } catch (error) {
      note = explain(error);
    }
    unlessPressed(render);
  }
  render();
  const off = chat.on("friends", () => unlessPressed(render));
  openDialog(t("addFriend"), () => [field, list], { onClose: off });
}
