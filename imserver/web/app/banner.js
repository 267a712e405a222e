/** The line that tells what the connection is doing, when it is not simply there. */
import { announce, h } from "/app/dom.js";
import { t } from "/app/i18n.js";

const PATIENCE_MS = 700; // a connection that comes back sooner is not worth a word

/** @param {import("/app/chat.js").Chat} chat */
export function connectionBanner(chat) {
  const text = h("span", {});
  const button = h("button", { type: "button", class: "link-button", onclick: () => chat.client.retryNow() }, t("reconnectNow"));
  const element = h("div", { class: "banner", hidden: true }, h("span", { class: "spinner", "aria-hidden": "true" }), text, button);
  let appear = 0;
  let tick = 0;
  let wasTold = false;

  const show = () => {
    const { name, retryAt } = chat.client.state;
    clearInterval(tick);
    if (name === "online" || name === "ended") {
      clearTimeout(appear);
      appear = 0;
      element.hidden = true;
      if (wasTold) announce(t("back_online"));
      wasTold = false;
      return;
    }
    appear ||= setTimeout(() => { element.hidden = false; wasTold = true; announce(text.textContent); }, PATIENCE_MS);
    const isWaiting = name === "reconnecting";
    const count = () => {
      const seconds = Math.ceil((retryAt - Date.now()) / 1000);
      text.textContent = navigator.onLine === false ? t("offlineNow") : isWaiting && seconds > 0 ? t("reconnectingIn", { seconds }) : t("connecting");
    };
    count();
    if (isWaiting) tick = setInterval(count, 250);
    button.hidden = !isWaiting;
  };
  const off = chat.on("state", show);
  show();
  return { element, close: () => { off(); clearInterval(tick); clearTimeout(appear); } };
}
