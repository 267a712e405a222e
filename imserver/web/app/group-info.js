/** The panel of a group: what it is, who belongs to it, and what the user may change. */
import { askText, attempt, confirmDialog } from "/app/dialog.js";
import { h, icon, iconButton } from "/app/dom.js";
import { JOIN_MODES, addMembersDialog } from "/app/group-dialogs.js";
import { t } from "/app/i18n.js";
import { actionRow, toggleRow } from "/app/info-panel.js";
import { memberList } from "/app/member-list.js";
import { copy } from "/app/message-menu.js";
import { conversationCard } from "/app/person-info.js";
import { avatar } from "/app/text.js";

const MAX_NAME = 64;
const MAX_ANNOUNCEMENT = 4096;

/** @param {import("/app/chat.js").Chat} chat @param {string} id */
export function groupInfo(chat, id, { onOpen, onDeleted, shown, again }) {
  const groupId = id.slice(2);
  const group = chat.groups.get(groupId);
  const isMember = Boolean(group) && chat.groups.isMember(groupId);
  const isInCharge = chat.groups.isInCharge(groupId);
  const members = isMember ? chat.groups.members(groupId) : null;
  const { muted, pinned, left } = chat.conversation(id);
  return {
    signature: JSON.stringify([group, isMember, members, members?.map((one) => chat.name(one.user_id)), muted, pinned, left, shown, chat.features]),
    build: () => [
      about(chat, groupId, group, isMember && isInCharge),
      isMember && requests(chat, group),
      isMember && h("section", { class: "panel-card" },
        h("div", { class: "panel-title" }, h("h3", {}, t("members", { count: group.member_count })),
          group.join !== "approval" || isInCharge ? h("button", { type: "button", class: "button button-plain button-small", dataset: { key: "add" }, onclick: () => addMembersDialog(chat, groupId, new Set((members ?? []).map((one) => one.user_id))) }, icon("personPlus"), t("addMembers")) : null),
        memberList(chat, groupId, members, { onOpen, shown, again })),
      isMember && isInCharge && rules(chat, groupId, group),
      isMember && conversationCard(chat, id, onDeleted),
      isMember && h("section", { class: "panel-card" }, group.role === "owner"
        ? actionRow("dismiss", t("dismiss"), icon("trash"), () => sure(t("dismiss"), t("dismissText", { name: group.name }), chat.client.dismissGroup.bind(chat.client, groupId)), { isDanger: true })
        : actionRow("leave", t("leave"), icon("logout"), () => sure(t("leave"), t("leaveText", { name: group.name }), chat.client.leaveGroup.bind(chat.client, groupId)), { isDanger: true })),
      !isMember && h("section", { class: "panel-card" }, h("p", { class: "notice" }, t("closedNoMember")),
        group && group.join !== "invite" ? actionRow("join", t("join"), icon("enter"), () => attempt(chat.client.joinGroup(groupId).then(() => chat.groups.refresh(groupId)))) : null),
    ],
  };
}

async function sure(title, text, task) {
  if (await confirmDialog(title, text, title)) await attempt(task());
}

function about(chat, groupId, group, mayChange) {
  const name = group?.name ?? groupId;
  const change = (label, key, value, maxLength, isLong) => askText({ title: label, label, value: value ?? "", maxLength, isLong, isOptional: isLong, save: (text) => chat.client.updateGroup(groupId, { [key]: text || null }) });
  return [
    h("div", { class: "panel-who" }, avatar(`g:${groupId}`, name, "avatar-large"),
      h("div", { class: "panel-name" }, h("h3", { dir: "auto" }, name), mayChange ? iconButton("compose", t("renameGroup"), () => change(t("groupName"), "name", name, MAX_NAME, false), { "data-key": "name" }) : null),
      h("button", { type: "button", class: "id-chip", title: t("copyGroupId"), "aria-label": `${t("copyGroupId")}: ${groupId}`, dataset: { key: "id" }, onclick: () => copy(groupId) }, groupId, icon("copy"))),
    group?.announcement || mayChange ? h("section", { class: "panel-card" },
      h("div", { class: "panel-title" }, h("h3", {}, t("announcement")), mayChange ? iconButton("compose", t("changeAnnouncement"), () => change(t("announcement"), "announcement", group.announcement, MAX_ANNOUNCEMENT, true), { "data-key": "announcement" }) : null),
      h("p", { class: `panel-announcement ${group?.announcement ? "" : "panel-soft"}`, dir: "auto" }, group?.announcement || t("noAnnouncement"))) : null,
  ];
}

/** Who asks to join. */
function requests(chat, group) {
  const asked = group.join_requests ?? [];
  if (!asked.length) return null;
  const answer = (one, accept) => attempt(chat.client.answerJoin(one.request_id, accept).then(() => chat.groups.refresh(group.group_id)));
  return h("section", { class: "panel-card" }, h("div", { class: "panel-title" }, h("h3", {}, t("joinRequests", { count: asked.length }))),
    asked.map((one) => h("div", { class: "person-row person-asks" }, avatar(one.user_id, chat.name(one.user_id), "avatar-small"),
      h("span", { class: "list-text" }, h("span", { class: "list-name", dir: "auto" }, chat.name(one.user_id)), h("span", { class: "list-last", dir: "auto" }, one.message || `@${one.user_id}`)),
      iconButton("check", `${t("accept")}: ${chat.name(one.user_id)}`, () => answer(one, true), { "data-key": `accept-${one.request_id}`, class: "accept" }),
      iconButton("close", `${t("decline")}: ${chat.name(one.user_id)}`, () => answer(one, false), { "data-key": `decline-${one.request_id}` }))));
}

/** Who may come in, who may write. */
function rules(chat, groupId, group) {
  const select = h("select", { class: "input input-small", "aria-label": t("whoMayJoin"), dataset: { key: "join" }, onchange: () => attempt(chat.client.updateGroup(groupId, { join: /** @type {any} */ (select.value) })) },
    JOIN_MODES.map(([value, key]) => h("option", { value, selected: group.join === value }, t(key))));
  return h("section", { class: "panel-card" },
    h("div", { class: "panel-row" }, icon("enter"), h("span", { class: "panel-label" }, t("whoMayJoin")), select),
    toggleRow("all-muted", t("muteAll"), Boolean(group.muted), () => attempt(chat.client.updateGroup(groupId, { muted: !group.muted })), { icon: icon("megaphone") }));
}
