/** The HTTP API with the administrator's token. The tokens live as long as this tab. */

const KEY = "imserver.admin";

export class ApiError extends Error {
  constructor(status, body) {
    super(body.message || `the server answered ${status}`);
    this.status = status;
  }
}

let tokens = JSON.parse(sessionStorage.getItem(KEY) || "null");

function keep(fresh) {
  tokens = fresh;
  if (fresh) sessionStorage.setItem(KEY, JSON.stringify(fresh));
  else sessionStorage.removeItem(KEY);
}

export function isLoggedIn() {
  return tokens !== null;
}

async function send(method, path, body, token) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (token) headers.Authorization = `Bearer ${token}`;
  const answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const fields = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new ApiError(answer.status, fields);
  return fields;
}

let refreshing = null;

async function refresh() {
  refreshing ??= send("POST", "/v1/sessions/refresh", { refresh_token: tokens.refresh_token })
    .then((fields) => keep({ ...tokens, token: fields.token, refresh_token: fields.refresh_token }))
    .finally(() => { refreshing = null; });
  await refreshing;
}

/** A request as the administrator; an expired token is refreshed once. */
export async function call(method, path, body) {
  try {
    return await send(method, path, body, tokens?.token);
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 401 || tokens === null) throw error;
    await refresh();
    return send(method, path, body, tokens.token);
  }
}

export async function logIn(userId, password) {
  const fields = await send("POST", "/v1/sessions", { user_id: userId, password, device_id: "admin-page", platform: "web" });
  keep({ token: fields.token, refresh_token: fields.refresh_token, user_id: fields.user_id });
  try {
    await call("GET", "/v1/admin/stats");
  } catch (error) {
    await logOut();
    throw error.status === 403 ? new Error("this user is no administrator") : error;
  }
}

export async function logOut() {
  try {
    await call("DELETE", "/v1/sessions/current");
  } catch (error) {
    if (!(error instanceof ApiError)) throw error; // an ended session is what was wanted
  } finally {
    keep(null);
  }
}
