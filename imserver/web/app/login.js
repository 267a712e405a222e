/** The first screen: register or log in. */
import { h, icon } from "/app/dom.js";
import { languages, language, t } from "/app/i18n.js";
import { explain } from "/app/text.js";

/**
 * @param {object} options
 * @param {string} options.lastUser who logged in here last @param {string} [options.notice] why one has to log in again
 * @param {(entry: {isNew: boolean, userId: string, password: string, nickname: string, isShared: boolean}) => Promise<void>} options.onEnter
 * @param {(language: string) => void} options.onLanguage
 */
export function loginView({ lastUser, notice, onEnter, onLanguage }) {
  let isNew = !lastUser;
  const userId = field("user_id", t("userId"), { autocomplete: "username", autocapitalize: "none", spellcheck: "false", maxlength: 64, required: true, value: lastUser });
  const nickname = field("nickname", `${t("nickname")} (${t("optional")})`, { autocomplete: "nickname", maxlength: 64 });
  const password = field("password", t("password"), { type: "password", required: true, maxlength: 256 });
  const reveal = h("button", { type: "button", class: "icon-button reveal", "aria-label": t("showPassword"), "aria-pressed": "false", onclick: () => {
    const isHidden = password.input.type === "password";
    password.input.type = isHidden ? "text" : "password";
    reveal.setAttribute("aria-pressed", String(isHidden));
    reveal.setAttribute("aria-label", t(isHidden ? "hidePassword" : "showPassword"));
  } }, icon("eye"));
  password.input.after(reveal);
  const hint = h("p", { class: "field-hint", id: "password-hint" }, t("passwordHint"));
  const idHint = h("p", { class: "field-hint", id: "user-id-hint" }, t("userIdHint"));
  userId.box.append(idHint);
  password.box.append(hint);
  userId.input.setAttribute("aria-describedby", "user-id-hint");
  const remember = h("input", { type: "checkbox", name: "remember" });
  const fault = h("p", { class: "form-error", role: "alert" }, notice ?? "");
  const submit = h("button", { class: "button button-primary", type: "submit" });
  const tabs = ["register", "login"].map((name) => h("button", { type: "button", class: "tab", "aria-pressed": "false", onclick: () => {
    isNew = name === "register"; fault.textContent = ""; show();
  } }, t(name)));

  const form = h("form", { class: "login-form", novalidate: true, onsubmit: async (event) => {
    event.preventDefault();
    fault.textContent = "";
    const entry = { isNew, userId: userId.input.value.trim(), password: password.input.value, nickname: nickname.input.value.trim(), isShared: remember.checked };
    if (!/^[A-Za-z0-9_.@-]{1,64}$/.test(entry.userId)) return complain(t("err_userId"), userId.input);
    if (!entry.password || (isNew && new TextEncoder().encode(entry.password).length < 8)) return complain(t("passwordHint"), password.input);
    submit.disabled = true;
    submit.textContent = t("working");
    try {
      await onEnter(entry);
    } catch (error) {
      complain(explain(error), error.field === "password" || error.code === 401 ? password.input : userId.input);
    } finally {
      submit.disabled = false;
      show();
    }
  } },
  h("div", { class: "tabs" }, tabs), userId.box, nickname.box, password.box,
  h("label", { class: "check" }, remember, h("span", {}, t("remember"))), fault, submit);

  function complain(text, input) {
    fault.textContent = text;
    input.setAttribute("aria-invalid", "true");
    input.focus();
  }

  function show() {
    tabs[0].setAttribute("aria-pressed", String(isNew));
    tabs[1].setAttribute("aria-pressed", String(!isNew));
    nickname.box.hidden = !isNew;
    hint.hidden = !isNew;
    idHint.hidden = !isNew;
    password.input.autocomplete = isNew ? "new-password" : "current-password";
    submit.textContent = t(isNew ? "register" : "login");
    for (const one of [userId, password]) one.input.removeAttribute("aria-invalid");
  }

  const choice = h("select", { "aria-label": t("language"), onchange: () => onLanguage(choice.value) },
    Object.entries(languages).map(([name, title]) => h("option", { value: name, selected: name === language() }, title)));
  show();
  const view = h("main", { class: "login" },
    h("section", { class: "login-card" },
      h("div", { class: "brand" }, h("img", { src: "/app/icon.svg", alt: "", width: 44, height: 44 }), h("div", {}, h("h1", {}, t("appName")), h("p", {}, t("tagline"))), choice),
      h("p", { class: "first-line" }, t("firstLine")),
      form));
  return { element: view, focus: () => (lastUser ? password : userId).input.focus(), close: () => {} };
}

function field(name, label, attributes) {
  const { value = "", ...rest } = attributes;
  const input = h("input", { name, id: `login-${name}`, type: "text", class: "input", ...rest });
  input.value = value;
  return { input, box: h("div", { class: "field" }, h("label", { for: `login-${name}` }, label), h("div", { class: "input-row" }, input)) };
}
