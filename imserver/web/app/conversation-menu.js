/** What can be done with a conversation as a whole: pin, mute, delete. */
import { attempt, confirmDialog } from "/app/dialog.js";
import { t } from "/app/i18n.js";
import { showMenu } from "/app/menu.js";

/** The entries, for the list's menu and for the panel. @param {import("/app/chat.js").Chat} chat @param {(id: string) => void} onDeleted */
export function conversationEntries(chat, id, onDeleted) {
  const conversation = chat.conversation(id);
  const { muted = false, pinned = false } = conversation;
  const exists = conversation.last_seq > 0 && !conversation.left;
  return [
    chat.features.settings && exists && { label: t(pinned ? "unpin" : "pin"), icon: "pin", run: () => attempt(chat.client.setConversation(id, { pinned: !pinned })) },
    chat.features.settings && exists && { label: t(muted ? "unmuteChat" : "muteChat"), icon: muted ? "bell" : "bellOff", run: () => attempt(chat.client.setConversation(id, { muted: !muted })) },
    conversation.unread > 0 && { label: t("markRead"), icon: "checks", run: () => chat.client.markRead(id) },
    chat.features.remove && exists && { label: t("deleteChat"), icon: "trash", isDanger: true, run: async () => {
      if (!await confirmDialog(t("deleteChat"), t("deleteChatText", { name: chat.title(conversation) }), t("deleteChat"))) return;
      if (await attempt(chat.deleteConversation(id)) !== undefined) onDeleted(id);
    } },
  ].filter(Boolean);
}

/** @param {import("/app/chat.js").Chat} chat @param {HTMLElement} anchor */
export function conversationMenu(chat, id, anchor, { point, onDeleted }) {
  const entries = conversationEntries(chat, id, onDeleted);
  if (entries.length) showMenu(anchor, entries, { label: t("chatMenu"), point });
}
