/** What reaches a user who looks elsewhere: the tab's title and icon, a sound, the desktop's notifications. */
import { preferences } from "/app/accounts.js";
import { announce, toast } from "/app/dom.js";
import { t } from "/app/i18n.js";
import { summary } from "/app/text.js";

const SIZE = 64;

export class Notifier {
  /** @param {import("/app/chat.js").Chat} chat @param {(id: string) => void} onOpen */
  constructor(chat, onOpen) {
    Object.assign(this, { chat, onOpen });
    this.icon = document.querySelector("link[rel=icon]");
    this.plain = this.icon.getAttribute("href");
    this.shown = -1;
    this.off = [chat.on("list", () => this.#count()), chat.on("incoming", (message) => this.#incoming(message))];
  }

  close() {
    for (const off of this.off) off();
    document.title = t("appName");
    this.icon.href = this.plain;
    this.audio?.close();
  }

  get isPossible() { return "Notification" in globalThis && globalThis.isSecureContext; }
  get isOn() { return this.isPossible && Notification.permission === "granted" && preferences.get("notifications") === true; }
  get hasSound() { return preferences.get("sound") === true; }

  /** From a click alone: browsers ask then, and only then. */
  async setOn(isOn) {
    preferences.set("notifications", isOn);
    if (!isOn || Notification.permission === "granted") return;
    if (await Notification.requestPermission() !== "granted") toast(t("notificationsBlocked"));
  }

  setSound(isOn) {
    preferences.set("sound", isOn);
    if (isOn) this.#sound();
  }

  #count() {
    const count = this.chat.unreadTotal();
    if (count === this.shown) return;
    this.shown = count;
    document.title = count ? `(${count > 999 ? "999+" : count}) ${t("appName")}` : t("appName");
    if (!count) { this.icon.href = this.plain; return; }
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = SIZE;
    const pen = canvas.getContext("2d");
    const picture = new Image();
    picture.onload = () => {
      pen.drawImage(picture, 0, 0, SIZE, SIZE);
      pen.fillStyle = "#e03131";
      pen.beginPath();
      pen.arc(SIZE - 17, 17, 17, 0, 2 * Math.PI);
      pen.fill();
      if (this.shown) this.icon.href = canvas.toDataURL("image/png");
    };
    picture.src = this.plain;
  }

  #incoming(message) {
    const { chat } = this;
    const isLooking = document.visibilityState === "visible" && document.hasFocus();
    const isHere = isLooking && message.conversation_id === chat.openId;
    const conversation = chat.conversation(message.conversation_id);
    if (message.type === "system" || conversation.muted || message.seq <= conversation.read_seq) return;
    const text = t("newMessageFrom", { name: chat.name(message.from), text: summary(message, chat).slice(0, 200) });
    if (isLooking) announce(text);
    if (isHere || !chat.isSynced) return;
    if (this.hasSound) this.#sound();
    if (!this.isOn || isLooking) return;
    const note = new Notification(chat.title(conversation), { body: summary(message, chat).slice(0, 200), tag: message.conversation_id, icon: "/app/icon.svg" });
    note.onclick = () => { focus(); this.onOpen(message.conversation_id); note.close(); };
  }

  /** Two soft tones, made here: no file, and nothing to load. */
  #sound() {
    this.audio ??= new AudioContext();
    const { audio } = this;
    for (const [index, pitch] of [660, 880].entries()) {
      const at = audio.currentTime + index * 0.09;
      const tone = audio.createOscillator();
      const volume = audio.createGain();
      tone.frequency.value = pitch;
      volume.gain.setValueAtTime(0, at);
      volume.gain.linearRampToValueAtTime(0.08, at + 0.01);
      volume.gain.exponentialRampToValueAtTime(0.0001, at + 0.25);
      tone.connect(volume).connect(audio.destination);
      tone.start(at);
      tone.stop(at + 0.3);
    }
  }
}
