/** The members of a group, and what may be done with each. */
import { attempt, confirmDialog } from "/app/dialog.js";
import { h, icon, iconButton } from "/app/dom.js";
import { addFriend } from "/app/friend-actions.js";
import { dateTime, t } from "/app/i18n.js";
import { showMenu } from "/app/menu.js";
import { avatar } from "/app/text.js";
import { directId } from "/imserver.js";

const STEP = 50;
const SEARCH_FROM = 12; // members: fewer are seen at a glance
const MUTES = [[10 * 60_000, "mute10m"], [3600_000, "mute1h"], [24 * 3600_000, "mute1d"]];
const RANK = { owner: 2, admin: 1, member: 0 };

/** @param {import("/app/chat.js").Chat} chat @param {import("/imserver.js").Member[]|null} members */
export function memberList(chat, groupId, members, { onOpen, shown, again }) {
  if (!members) return h("p", { class: "notice", role: "status" }, t("loading"));
  const query = shown.query.toLocaleLowerCase();
  const found = members.filter((one) => `${chat.name(one.user_id)} ${one.user_id}`.toLocaleLowerCase().includes(query));
  return [
    members.length >= SEARCH_FROM ? h("input", { type: "search", class: "input input-small", value: shown.query, placeholder: t("findMember"), "aria-label": t("findMember"), dataset: { key: "member-query" },
      oninput: (event) => { shown.query = event.target.value; again(); } }) : null,
    h("ul", { class: "member-list" }, found.slice(0, shown.members).map((one) => row(chat, groupId, one, onOpen))),
    found.length > shown.members ? h("button", { type: "button", class: "link-button", dataset: { key: "more" }, onclick: () => { shown.members += STEP; again(); } }, t("showMore")) : null,
  ];
}

function row(chat, groupId, member, onOpen) {
  const { user_id: id, role } = member;
  const isMuted = member.muted_until > chat.client.serverNow();
  const name = chat.name(id);
  const entries = actions(chat, groupId, member, isMuted, onOpen);
  const button = entries.length ? iconButton("more", t("memberActions", { name }), () => showMenu(button, entries, { label: name }), { "aria-haspopup": "menu", "data-key": `member-${id}` }) : null;
  return h("li", { class: "person-row", dataset: { member: id } }, h("span", { class: `list-face ${chat.friends.isOnline(id) ? "is-online" : ""}` }, avatar(id, name, "avatar-small")),
    h("span", { class: "list-text" }, h("span", { class: "list-top" }, h("span", { class: "list-name", dir: "auto" }, name), id === chat.me ? h("span", { class: "panel-soft" }, `(${t("you")})`) : null,
      role === "member" ? null : h("span", { class: `role role-${role}` }, role === "owner" ? icon("crown") : null, t(role))),
    h("span", { class: "list-last" }, isMuted ? t("mutedUntil", { time: dateTime(member.muted_until) }) : `@${id}`)), button);
}

function actions(chat, groupId, { user_id: id, role }, isMuted, onOpen) {
  if (id === chat.me) return [];
  const mine = chat.groups.role(groupId);
  const isAbove = RANK[mine] > RANK[role];
  const { client } = chat;
  const name = chat.name(id);
  const sure = async (label, text, task) => { if (await confirmDialog(label, text, label)) await attempt(task()); };
  return [
    { label: t("writeTo"), icon: "chat", run: () => onOpen(directId(chat.me, id)) },
    chat.features.friends && !chat.friends.get(id) && !chat.friends.requestTo(id) && { label: t("addFriend"), icon: "personPlus", run: () => addFriend(chat, id) },
    mine === "owner" && role === "member" && { label: t("makeAdmin"), icon: "crown", run: () => attempt(client.setRole(groupId, id, "admin")) },
    mine === "owner" && role === "admin" && { label: t("unmakeAdmin"), icon: "person", run: () => attempt(client.setRole(groupId, id, "member")) },
    mine === "owner" && { label: t("handOver"), icon: "users", isDanger: true, run: () => sure(t("handOver"), t("handOverText", { name }), () => client.setRole(groupId, id, "owner")) },
    ...(isAbove && mine !== "member" ? [
      ...(isMuted ? [{ label: t("unmuteMember"), icon: "bell", run: () => attempt(client.muteMember(groupId, id, 0)) }]
        : MUTES.map(([ms, key]) => ({ label: t(key), icon: "bellOff", run: () => attempt(client.muteMember(groupId, id, ms)) }))),
      { label: t("removeMember"), icon: "trash", isDanger: true, run: () => sure(t("removeMember"), t("removeMemberText", { name }), () => client.removeMembers(groupId, [id])) },
    ] : []),
  ].filter(Boolean);
}
