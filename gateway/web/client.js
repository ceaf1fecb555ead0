// The page's half of Cloakroom, served by the gateway as /bff/client.js:
//
//   import { accessToken, apiFetch, routeFetch, login, logout } from '/bff/client.js';
//
// It holds the access token in this module and nowhere else, asks for another
// before it runs out, waits out a 503, and repeats a call once with a fresh
// token. It never navigates by itself: what a page does about a BFFError whose
// loggedOut is true is the page's own affair, and mostly login(error).

const base = new URL('.', import.meta.url).pathname.replace(/\/$/, '');
const localKey = 'cloakroom-local-key'; // of a session with two halves

let token = null; // { value, due, over } by performance.now(): the browser's clock doesn't matter
let asking = null; // { answer, fresh }: one question at a time, whoever asks

// Who verifies a token may find it dead a moment before the gateway does: exp is
// cut to the second, and clocks differ. So a token that was refused is asked for
// again with this much life, in seconds; half a token's life is the most there is.
const freshTTL = 30;

// BFFError is a refusal of the gateway's. code and reason are listed in
// docs/endpoints.md.
export class BFFError extends Error {
  constructor(status, problem) {
    super(problem.title ?? `HTTP ${status}`);
    this.name = 'BFFError';
    Object.assign(this, {
      status, code: problem.code, reason: problem.reason, detail: problem.detail,
      loginURL: problem.login_url, retryAfter: problem.retry_after, traceID: problem.trace_id,
    });
  }

  // loggedOut: nobody is logged in, and a login mends it. Nothing else means that.
  get loggedOut() {
    return this.code === 'login_required' || this.code === 'local_key_required';
  }
}

const pause = (ms) => new Promise((done) => { setTimeout(done, ms); });

async function problemOf(response) {
  if (!response.headers.get('Content-Type')?.startsWith('application/problem+json')) return {};
  return response.clone().json().catch(() => ({}));
}

// bff calls an endpoint of the gateway: bff('/user'), bff('/sessions'). It waits
// out a 503 four times, and throws a BFFError for any other refusal. Resolves to
// the answer's JSON, or null.
export async function bff(path, init = {}) {
  for (let attempt = 0; ; attempt++) {
    const headers = new Headers(init.headers);
    headers.set('X-BFF', '1');
    const response = await fetch(base + path, { cache: 'no-store', ...init, headers });
    if (response.ok) return response.status === 204 ? null : response.json();
    const problem = await problemOf(response);
    if (response.status !== 503 || attempt === 4) throw new BFFError(response.status, problem);
    const seconds = problem.retry_after ?? 2;
    await pause(1000 * seconds * (1 + Math.random() / 2)); // not all tabs at once
  }
}

// askToken asks for the token, and keeps what belongs to the page of a session
// with two halves. Tabs share that, so it is read anew each time.
async function askToken(path) {
  const stored = localStorage.getItem(localKey);
  let answer;
  try {
    answer = await bff(path, { method: 'POST', headers: stored ? { 'X-BFF-Local-Key': stored } : {} });
  } catch (error) {
    // What is stored may be an older session's: after a login, the first key is had without one.
    if (error.code !== 'local_key_required' || !stored) throw error;
    answer = await bff(path, { method: 'POST' });
  }
  if (answer.local_key) localStorage.setItem(localKey, answer.local_key);
  return answer;
}

// accessToken resolves to a live access token. fresh: the one there is was
// refused. Keep it in no place that outlives the page.
export async function accessToken({ fresh = false } = {}) {
  if (!fresh && token && performance.now() < token.due) return token.value;
  if (fresh && asking && !asking.fresh) await asking.answer.catch(() => {});
  asking ??= { answer: renew(fresh), fresh };
  return asking.answer;
}

async function renew(fresh) {
  const asked = performance.now();
  try {
    const answer = await askToken(fresh ? `/token?min_ttl=${freshTTL}` : '/token');
    token = { value: answer.access_token, due: asked + 800 * answer.expires_in, over: asked + 1000 * answer.expires_in };
    return token.value;
  } catch (error) {
    if (error.loggedOut) token = null;
    // Trouble, and the one there is still lives: go on with it.
    if (!fresh && error.status === 503 && token && performance.now() < token.over) return token.value;
    throw error;
  } finally {
    asking = null;
  }
}

// apiFetch is fetch with the token, for an API that verifies it. On a 401 it gets
// another token and repeats once; a body that is a stream can't be repeated.
export async function apiFetch(url, init = {}) {
  for (let attempt = 0; ; attempt++) {
    const headers = new Headers(init.headers);
    headers.set('Authorization', `Bearer ${await accessToken({ fresh: attempt > 0 })}`);
    const response = await fetch(url, { ...init, headers });
    if (response.status !== 401 || attempt > 0 || init.body instanceof ReadableStream) return response;
  }
}

// routeFetch is fetch through the gateway, with the cookie. With two halves a
// token that has run out is renewed by /bff/token alone: then it does that, and
// repeats once. Throws a BFFError if nobody is logged in; any other answer is the
// caller's, a 503 too: only the caller knows what may be repeated.
export async function routeFetch(url, init = {}) {
  for (let attempt = 0; ; attempt++) {
    const headers = new Headers(init.headers);
    headers.set('X-BFF', '1');
    const response = await fetch(url, { ...init, headers });
    if (response.status !== 401) return response;
    const problem = await problemOf(response);
    const error = new BFFError(response.status, problem);
    if (error.loggedOut) throw error;
    const renew = problem.code === 'token_expired' || problem.code === 'token_invalid';
    if (!renew || attempt > 0 || init.body instanceof ReadableStream) return response;
    await accessToken({ fresh: true });
  }
}

// login navigates to the login, and comes back here. remember asks for a session
// that outlives the browser's, where the operator offers that.
export function login(error, { remember = false } = {}) {
  const url = new URL(error?.loginURL ?? `${base}/login`, location.origin);
  url.searchParams.set('return_to', location.pathname + location.search + location.hash);
  if (remember) url.searchParams.set('remember', '1');
  location.assign(url);
}

// logout ends the session, and navigates on to the provider's logout.
export async function logout() {
  const stored = localStorage.getItem(localKey);
  const { logout_url: next } = await bff('/logout', { method: 'POST', headers: stored ? { 'X-BFF-Local-Key': stored } : {} });
  token = null;
  localStorage.removeItem(localKey);
  location.assign(next);
}
