/** Theme, language, sound and notifications: kept in this browser. */
import { preferences } from "/app/accounts.js";
import { languages, language, setLanguage, t } from "/app/i18n.js";

export const themes = ["auto", "light", "dark"];
export const theme = () => (themes.includes(preferences.get("theme")) ? preferences.get("theme") : "auto");

export function applyTheme(name = theme()) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
}

export function applySettings() {
  applyTheme();
  setLanguage(preferences.get("language"));
}

/** The entries of the menu. @param {{notifier: import("/app/notify.js").Notifier, onLanguage: () => void}} parts */
export function settingsEntries({ notifier, onLanguage }) {
  const names = { auto: t("themeAuto"), light: t("themeLight"), dark: t("themeDark") };
  return [
    ...themes.map((name) => ({ label: `${t("theme")}: ${names[name]}`, isChecked: theme() === name, run: () => { preferences.set("theme", name); applyTheme(); } })),
    ...Object.entries(languages).map(([name, title]) => ({ label: title, isChecked: language() === name, run: () => { preferences.set("language", name); setLanguage(name); onLanguage(); } })),
    { label: t("sound"), isChecked: notifier.hasSound, run: () => notifier.setSound(!notifier.hasSound) },
    notifier.isPossible && { label: t("notifications"), isChecked: notifier.isOn, run: () => notifier.setOn(!notifier.isOn) },
  ];
}
