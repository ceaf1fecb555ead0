import { bff, Ended, Trouble } from "./bff.js";

const $ = (id) => document.getElementById(id);
const api = document.querySelector("meta[name=demo-api]").content;

// The access token lives in this variable. Nothing here writes it anywhere.
let token = null; // {value, until}: until in milliseconds, by performance.now()
let life = 0; // of a token, in seconds, as far as has been seen
let subject = null;
let asking = null; // the request for a token that is under way

const seconds = () => Math.max(0, (token.until - performance.now()) / 1000);

function tell(text, bad = false) {
  const line = document.createElement("li");
  line.textContent = `${new Date().toLocaleTimeString()}  ${text.trim()}`;
  if (bad) line.className = "bad";
  $("log").prepend(line);
  while ($("log").children.length > 100) $("log").lastChild.remove();
}

// getToken asks the gateway for a token that lives minTTL seconds, or for as
// long as the gateway says a token should. Calls at one time share one request.
function getToken({ minTTL = 0, background = false } = {}) {
  const path = minTTL > 0 ? `/bff/token?min_ttl=${minTTL}` : "/bff/token";
  asking ??= bff("POST", path, { tell, background })
    .then((got) => {
      if (got.access_token !== token?.value) $("token-count").textContent = Number($("token-count").textContent) + 1;
      token = { value: got.access_token, until: performance.now() + got.expires_in * 1000 };
      life = Math.max(life, got.expires_in);
      showToken();
    })
    .finally(() => { asking = null; });
  return asking;
}

function showToken() {
  $("token-tail").textContent = "…" + token.value.slice(-6);
  $("token-ttl").textContent = seconds() > 0 ? `${Math.ceil(seconds())} s` : "it has run out";
  $("token-life").value = life > 0 ? seconds() / life : 0;
}

// Renewing is not activity: an open page alone keeps nobody logged in.
let nextRenewal = 0;
setInterval(() => {
  if (document.body.dataset.state !== "in" || !token) return;
  showToken();
  const due = Math.ceil(life / 5);
  if ($("auto-renew").checked && seconds() < due && performance.now() > nextRenewal) {
    nextRenewal = performance.now() + 3000;
    attempt(() => getToken({ minTTL: due, background: true }));
  }
}, 500);

async function showSession() {
  const info = await bff("GET", "/bff/session", { tell });
  const rows = Object.entries(info).flatMap(([name, value]) => {
    const dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = name.replaceAll("_", " ");
    dd.textContent = value;
    dd.id = "session-" + name.replaceAll("_", "-");
    return [dt, dd];
  });
  $("session-info").replaceChildren(...rows);
}

async function showUser() {
  const user = await bff("GET", "/bff/user", { tell });
  // Another tab has logged in as somebody else: what is held here is not theirs.
  if (subject && subject !== user.sub) return location.reload();
  subject = user.sub;
  $("user").textContent = user.name ?? user.sub;
  $("subject").textContent = user.sub;
  $("picture").hidden = !user.picture;
  if (user.picture) $("picture").src = user.picture;
}

function show(state) { document.body.dataset.state = state; }

function result(title, body, bad = false) {
  $("result-title").textContent = title;
  $("result-title").className = bad ? "bad" : "";
  $("result").textContent = body === undefined ? "" : JSON.stringify(body, null, 2);
}

// callAPI is one call and what the page shows of it. The answer is the API's
// own, so its 401 says something about the token and nothing about the session.
async function callAPI(how, url, options = {}) {
  const response = await fetch(url, { cache: "no-store", ...options });
  const body = await response.json().catch(() => ({}));
  tell(`${options.method ?? "GET"} ${url} (${how}): ${response.status} ${body.code ?? ""} ${body.reason ?? ""}`, !response.ok);
  return { response, body };
}

// bearer calls the API at its own address with the token. A token the API finds
// too old is replaced and the call repeated, once.
async function bearer(path) {
  if (!token || seconds() < 2) await getToken();
  const options = () => ({ headers: { Authorization: `Bearer ${token.value}` }, credentials: "omit" });
  let { response, body } = await callAPI("token", api + path, options());
  if (response.status === 401) {
    await getToken();
    ({ response, body } = await callAPI("token", api + path, options()));
  }
  result(`${response.status}, called directly with the token`, body, !response.ok);
}

// proxied calls the API through the gateway. The cookie is all it takes.
async function proxied(path, options) {
  const { response, body } = await callAPI("cookie", path, options);
  if (response.status === 401 && body.code === "login_required") throw new Ended(body);
  if (response.status === 503) throw new Trouble(body.title ?? "Not there for the moment.", body.retry_after ?? 2);
  result(`${response.status}, through the gateway with the cookie`, body, !response.ok);
}

const reasons = {
  idle_timeout: "Nothing happened for too long, so the session ended.",
  absolute_timeout: "The session has reached its greatest age.",
  logged_out: "You have logged out.",
  replaced: "Another login took this session's place.",
  reuse_detected: "An old copy of the cookie was used, so the session was ended to be safe.",
  refresh_rejected: "The provider would not renew the login.",
  revoked: "The session was ended from elsewhere.",
  provider_logout: "You have logged out at the provider.",
  store_lost: "The session could not be found again.",
};

let retryTimer;

// attempt runs a task and turns its errors into what the page shows.
async function attempt(task) {
  clearTimeout(retryTimer);
  try {
    await task();
    return true;
  } catch (error) {
    if (error instanceof Ended) {
      token = subject = null;
      const reason = error.problem.reason ?? "";
      $("reason").textContent = reasons[reason] ?? "";
      $("reason").dataset.reason = reason;
      show("out");
    } else if (error instanceof Trouble && document.body.dataset.state !== "in") {
      $("waiting-for").textContent = error.message;
      show("waiting");
      retryTimer = setTimeout(start, error.retryAfter * 1000);
    } else {
      tell(error.message, true);
      result(error.message, undefined, true);
    }
    return false;
  }
}

const start = () => attempt(async () => {
  await getToken();
  await showUser();
  await showSession();
  show("in");
});

function onClick(id, task) {
  $(id).addEventListener("click", async () => {
    $(id).disabled = true;
    await attempt(task);
    $(id).disabled = false;
  });
}

onClick("retry", start);
onClick("get-token", () => getToken());
onClick("get-token-fresh", () => getToken({ minTTL: Math.ceil(life / 2) }));
onClick("call-bearer", () => bearer("/api/hello"));
onClick("call-proxy", () => proxied("/api/hello"));
onClick("list-notes", () => bearer("/api/notes"));
onClick("session", showSession);
onClick("logout", async () => {
  const { logout_url } = await bff("POST", "/bff/logout", { tell });
  token = subject = null;
  location.assign(logout_url || "/");
});

$("note-form").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    await proxied("/api/notes", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ text: $("note").value }),
    });
    $("note").value = "";
  });
});

document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible" && document.body.dataset.state === "in") attempt(showUser);
});

// A page that comes out of the back-forward cache may belong to a session that is over.
window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

start();
