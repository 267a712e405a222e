/** What can be done with a message. */
import { attempt, confirmDialog } from "/app/dialog.js";
import { announce, h, toast } from "/app/dom.js";
import { QUICK, showEmoji } from "/app/emoji.js";
import { t } from "/app/i18n.js";
import { showMenu } from "/app/menu.js";
import { showReaders } from "/app/receipts.js";
import { toggleReaction } from "/app/reactions.js";
import { isServers } from "/app/system-text.js";
import { summary } from "/app/text.js";

/**
 * @param {import("/app/chat.js").Chat} chat @param {import("/imserver.js").Message} message
 * @param {{anchor: HTMLElement, point?: object, composer: import("/app/composer.js").Composer, mayWrite: boolean}} place
 */
export function messageMenu(chat, message, { anchor, point, composer, mayWrite }) {
  if (!message.seq || message.recalled || isServers(message)) return;
  const isOwn = message.from === chat.me;
  const isGroup = message.conversation_id.startsWith("g:");
  const { recall, edit, react, receipts } = chat.features;
  const mayRecall = recall && ((isOwn && chat.isRecallable(message)) || (isGroup && chat.groups.isInCharge(message.conversation_id.slice(2))));
  showMenu(anchor, [
    react && mayWrite && { emojis: QUICK.map((emoji) => ({ emoji, isOn: message.reactions?.[emoji]?.includes(chat.me) })), run: (emoji) => toggleReaction(chat, message, emoji),
      more: () => { const close = showEmoji(anchor, (emoji) => { close(); toggleReaction(chat, message, emoji); }); } },
    mayWrite && { label: t("reply"), icon: "reply", run: () => composer.reply(message) },
    { label: t("copy"), icon: "copy", run: () => copy(typeof message.body === "string" ? message.body : summary(message, chat)) },
    receipts && isOwn && isGroup && { label: t("readers"), icon: "checks", run: () => showReaders(chat, message) },
    edit && mayWrite && isOwn && message.type === "text" && typeof message.body === "string" && { label: t("edit"), icon: "compose", run: () => composer.edit(message) },
    mayRecall && { label: t("recall"), icon: "trash", isDanger: true, run: () => recallMessage(chat, message, isOwn) },
  ], { label: t("messageMenu"), point });
}

async function recallMessage(chat, message, isOwn) {
  if (!isOwn && !await confirmDialog(t("recall"), t("recallOther", { name: chat.name(message.from) }), t("recall"))) return;
  await attempt(chat.client.recall(message.conversation_id, message.seq).catch((error) => {
    if (error.error === "recall_window") chat.recallRefused(message);
    throw error;
  }));
}

/** Copy text; where the page has no clipboard (no TLS), by selection. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { class: "visually-hidden", value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  toast(t("copied"), { isError: false });
  announce(t("copied"));
}
