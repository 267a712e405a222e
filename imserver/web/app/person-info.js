/** The panel of a direct conversation: who it is, whether they are a friend, and what the user wants of the conversation. */
import { attempt, confirmDialog } from "/app/dialog.js";
import { h, icon, toast } from "/app/dom.js";
import { addFriend, remarkDialog } from "/app/friend-actions.js";
import { shortTime, t } from "/app/i18n.js";
import { actionRow, toggleRow } from "/app/info-panel.js";
import { copy } from "/app/message-menu.js";
import { avatar } from "/app/text.js";

/** @param {import("/app/chat.js").Chat} chat @param {string} id */
export function personInfo(chat, id, { onDeleted }) {
  const conversation = chat.conversation(id);
  const userId = conversation.peer;
  const person = chat.people.get(userId);
  const { friends, features } = chat;
  const friend = friends.get(userId);
  const [asks, asked, isBlocked] = [friends.requestFrom(userId), friends.requestTo(userId), friends.isBlocked(userId)];
  const presence = chat.presence.get(userId);
  const exists = conversation.last_seq > 0;
  return {
    signature: JSON.stringify([userId, person, friend, asks, asked, isBlocked, presence, conversation.muted, conversation.pinned, exists, features]),
    build: () => [
      h("div", { class: "panel-who" }, avatar(userId, chat.name(userId), "avatar-large"), h("h3", { dir: "auto" }, chat.name(userId)),
        friend?.remark ? h("p", { class: "panel-soft", dir: "auto" }, person?.nickname ?? userId) : null,
        h("button", { type: "button", class: "id-chip", title: t("copy"), dataset: { key: "id" }, onclick: () => copy(userId) }, `@${userId}`, icon("copy")),
        presence ? h("p", { class: presence.online ? "is-live" : "panel-soft" }, presence.online ? t("online") : presence.last_seen ? t("lastSeen", { time: shortTime(presence.last_seen) }) : t("offline")) : null,
        person?.bio ? h("p", { class: "panel-bio", dir: "auto" }, person.bio) : null),
      features.friends && h("section", { class: "panel-card" },
        friend ? actionRow("remark", friend.remark ? t("changeRemark") : t("setRemark"), icon("compose"), () => remarkDialog(chat, userId))
          : asks ? h("div", { class: "panel-ask" }, h("p", {}, t("asksFriend", { name: chat.name(userId) })), asks.message ? h("p", { class: "panel-soft", dir: "auto" }, asks.message) : null,
            h("div", { class: "button-row" }, h("button", { type: "button", class: "button button-primary button-small", dataset: { key: "accept" }, onclick: () => attempt(friends.answer(asks.request_id, true)) }, t("accept")),
              h("button", { type: "button", class: "button button-plain button-small", dataset: { key: "decline" }, onclick: () => attempt(friends.answer(asks.request_id, false)) }, t("decline"))))
            : asked ? h("p", { class: "panel-row panel-soft" }, icon("clock"), t("requestSent")) : actionRow("add", t("addFriend"), icon("personPlus"), () => addFriend(chat, userId)),
        actionRow("block", t(isBlocked ? "unblock" : "block"), icon("block"), async () => {
          if (isBlocked) await attempt(friends.unblock(userId));
          else if (await confirmDialog(t("block"), t("blockText", { name: chat.name(userId) }), t("block"))) await attempt(friends.block(userId));
        }, { isDanger: !isBlocked }),
        friend ? actionRow("unfriend", t("deleteFriend"), icon("trash"), async () => {
          if (await confirmDialog(t("deleteFriend"), t("deleteFriendText", { name: chat.name(userId) }), t("deleteFriend"))) await attempt(friends.remove(userId));
        }, { isDanger: true }) : null),
      exists && conversationCard(chat, id, onDeleted),
    ],
  };
}

/** Mute, pin, delete: the same for people and groups. */
export function conversationCard(chat, id, onDeleted) {
  const { muted = false, pinned = false } = chat.conversation(id);
  return h("section", { class: "panel-card" },
    chat.features.settings && [
      toggleRow("muted", t("muteChat"), muted, () => attempt(chat.client.setConversation(id, { muted: !muted })), { icon: icon("bellOff") }),
      toggleRow("pinned", t("pin"), pinned, () => attempt(chat.client.setConversation(id, { pinned: !pinned })), { icon: icon("pin") })],
    chat.features.remove && actionRow("delete", t("deleteChat"), icon("trash"), async () => {
      if (!await confirmDialog(t("deleteChat"), t("deleteChatText", { name: chat.title(chat.conversation(id)) }), t("deleteChat"))) return;
      if (await attempt(chat.deleteConversation(id)) === undefined) return;
      onDeleted(id);
      toast(t("chatDeleted"), { isError: false });
    }, { isDanger: true }));
}
