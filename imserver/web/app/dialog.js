/** Windows above the page: a form, a question, one line of text. The browser keeps the focus inside, and Escape closes. */
import { h, iconButton, toast } from "/app/dom.js";
import { t } from "/app/i18n.js";
import { explain } from "/app/text.js";

/**
 * @param {string} title
 * @param {(close: () => void) => (Node|string|null|Array)} build what is in it
 * @param {{onClose?: () => void, isWide?: boolean, submit?: {label: string, isDanger?: boolean, run: () => Promise<any>|any}}} [options]
 *   `submit`: makes it a form; when `run` succeeds it closes, else it says why not
 * @returns {() => void} closes it
 */
export function openDialog(title, build, { onClose, isWide = false, submit } = {}) {
  const close = () => dialog.close();
  const fault = h("p", { class: "form-error", role: "alert" });
  const button = submit ? h("button", { class: `button ${submit.isDanger ? "button-danger" : "button-primary"}` }, submit.label) : null;
  const content = h("div", { class: "dialog-body" }, build(close));
  const foot = submit ? h("footer", { class: "dialog-foot" }, fault, h("button", { type: "button", class: "button button-plain", onclick: close }, t("cancel")), button) : null;
  const dialog = h("dialog", { class: `dialog ${isWide ? "dialog-wide" : ""}`, "aria-label": title,
    onclick: (event) => { if (event.target === dialog) close(); },
    onkeydown: (event) => event.stopPropagation(), // the page's own keys rest meanwhile
    onclose: () => { dialog.remove(); onClose?.(); } },
  h(submit ? "form" : "div", { class: "dialog-box", method: "dialog", onsubmit: async (event) => {
    event.preventDefault();
    fault.textContent = "";
    button.disabled = true;
    try {
      if (await submit.run() !== false) close();
    } catch (error) {
      fault.textContent = explain(error);
    } finally {
      button.disabled = false;
    }
  } }, h("header", { class: "dialog-head" }, h("h2", { dir: "auto" }, title), iconButton("close", t("close"), close)), content, foot));
  document.body.append(dialog);
  dialog.showModal();
  (content.querySelector("[autofocus], input:not([type=radio]), textarea, button") ?? button)?.focus();
  return close;
}

/** A question. @returns {Promise<boolean>} */
export function confirmDialog(title, text, label, { isDanger = true } = {}) {
  return new Promise((resolve) => {
    let answer = false;
    openDialog(title, () => h("p", { class: "dialog-text" }, text), { onClose: () => resolve(answer), submit: { label, isDanger, run: () => { answer = true; } } });
  });
}

/** One text. `save` may fail: the dialog says why, and stays. @param {{title: string, label: string, value?: string, maxLength: number, isLong?: boolean, isOptional?: boolean, save: (text: string) => Promise<any>}} question */
export function askText({ title, label, value = "", maxLength, isLong = false, isOptional = false, save }) {
  const field = isLong ? h("textarea", { class: "input input-long", rows: 5, maxlength: maxLength, value, dir: "auto", "aria-label": label })
    : h("input", { class: "input", maxlength: maxLength, value, dir: "auto", autocomplete: "off", "aria-label": label });
  openDialog(title, () => h("label", { class: "field" }, h("span", { class: "field-label" }, label), field), { submit: { label: t("save"), run: () => {
    const text = field.value.trim();
    if (!text && !isOptional) { field.focus(); return false; }
    return save(text);
  } } });
}

/** Wait for something that may be refused; tell why. @returns {Promise<any>} undefined: it was */
export async function attempt(promise) {
  try {
    return (await promise) ?? true;
  } catch (error) {
    toast(explain(error));
    return undefined;
  }
}
