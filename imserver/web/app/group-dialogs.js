/** Making a group, joining one, adding people to one. */
import { h, toast } from "/app/dom.js";
import { openDialog } from "/app/dialog.js";
import { nameList, t } from "/app/i18n.js";
import { Picker } from "/app/picker.js";

const MAX_NAME = 64;
export const JOIN_MODES = [["invite", "joinInvite"], ["approval", "joinApproval"], ["open", "joinOpen"]];

/** Who could not be added, if anybody. */
function tellFailed(chat, failed) {
  const names = (failed ?? []).filter((one) => one.error !== "already_member").map((one) => chat.name(one.user_id));
  if (names.length) toast(t("notAdded", { names: nameList(names) }));
}

/** @param {import("/app/chat.js").Chat} chat @param {(conversationId: string) => void} onOpen @param {string[]} [first] already picked */
export function newGroupDialog(chat, onOpen, first = []) {
  const name = h("input", { class: "input", name: "group_name", maxlength: MAX_NAME, required: true, autofocus: true, autocomplete: "off", dir: "auto", "aria-label": t("groupName") });
  const join = h("select", { class: "input", name: "join", "aria-label": t("whoMayJoin") }, JOIN_MODES.map(([value, key]) => h("option", { value }, t(key))));
  const picker = new Picker(chat);
  for (const id of first) picker.toggle(id);
  openDialog(t("newGroup"), () => [
    h("label", { class: "field" }, h("span", { class: "field-label" }, t("groupName")), name),
    h("label", { class: "field" }, h("span", { class: "field-label" }, t("whoMayJoin")), join),
    h("div", { class: "field" }, h("span", { class: "field-label" }, t("memberList")), picker.element),
  ], { submit: { label: t("create"), run: async () => {
    const made = await chat.client.createGroup(name.value.trim(), { members: [...picker.picked], join: /** @type {any} */ (join.value) });
    tellFailed(chat, made.failed);
    onOpen(made.conversation_id);
  } } });
}

/** @param {import("/app/chat.js").Chat} chat @param {string} groupId @param {Set<string>} present */
export function addMembersDialog(chat, groupId, present) {
  const picker = new Picker(chat, { exclude: present });
  openDialog(t("addMembers"), () => picker.element, { submit: { label: t("add"), run: async () => {
    if (!picker.picked.size) { picker.field.focus(); return false; }
    tellFailed(chat, (await chat.client.addMembers(groupId, [...picker.picked])).failed);
    return true;
  } } });
}

/** @param {import("/app/chat.js").Chat} chat @param {(conversationId: string) => void} onOpen */
export function joinGroupDialog(chat, onOpen) {
  const field = h("input", { class: "input", name: "group_id", maxlength: 64, required: true, autofocus: true, autocomplete: "off", autocapitalize: "none", spellcheck: "false", "aria-label": t("groupId") });
  const message = h("input", { class: "input", name: "join_message", maxlength: 500, autocomplete: "off", dir: "auto", "aria-label": t("joinMessage") });
  openDialog(t("joinGroup"), () => [
    h("label", { class: "field" }, h("span", { class: "field-label" }, t("groupId")), field, h("span", { class: "field-hint" }, t("groupIdHint"))),
    h("label", { class: "field" }, h("span", { class: "field-label" }, t("joinMessage")), message),
  ], { submit: { label: t("join"), run: async () => {
    const id = field.value.trim();
    const answer = await chat.client.joinGroup(id, message.value.trim());
    if (answer.joined) onOpen(`g:${id}`);
    else toast(t("joinAsked"), { isError: false });
  } } });
}
