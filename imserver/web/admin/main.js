/** The admin page: log in, then four sections by the address's fragment. */

import { showConfig, showPlugins } from "./about.js";
import { ApiError, isLoggedIn, logIn, logOut } from "./api.js";
import { Overview } from "./overview.js";
import { Users } from "./users.js";

const at = (id) => document.getElementById(id);
const SECTIONS = ["overview", "users", "plugins", "config"];

const users = new Users(at("users"));
const overview = new Overview(at("overview"), (error, stats) => {
  const state = at("state");
  state.classList.toggle("bad", error !== null);
  if (error === null) {
    state.textContent = "live";
    at("server-name").textContent = stats.server;
    at("version").textContent = stats.version;
  } else if (error instanceof ApiError && [401, 403].includes(error.status)) {
    show(false, "The session has ended; log in again.");
  } else {
    state.textContent = "no answer from the server; trying again";
  }
});

async function openSection() {
  const wanted = SECTIONS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "overview";
  for (const name of SECTIONS) at(name).hidden = name !== wanted;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${wanted}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  try {
    if (wanted === "users") await users.load();
    if (wanted === "plugins") await showPlugins(at("plugins"));
    if (wanted === "config") await showConfig(at("config"));
  } catch (error) {
    at("state").textContent = error.message;
    at("state").classList.add("bad");
  }
}

function show(isIn, message = "") {
  at("login").hidden = isIn;
  at("page").hidden = !isIn;
  at("login-error").textContent = message;
  if (isIn) {
    overview.start();
    openSection();
  } else {
    overview.stop();
    at("login").querySelector("input").focus();
  }
}

at("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = new FormData(event.target);
  try {
    await logIn(form.get("user_id"), form.get("password"));
    event.target.reset();
    show(true);
  } catch (error) {
    at("login-error").textContent = error.message;
  }
});
at("logout").addEventListener("click", async () => {
  await overview.stop(); // a look that comes after the end of the session would be refused
  await logOut();
  show(false);
});
window.addEventListener("hashchange", openSection);
show(isLoggedIn());
