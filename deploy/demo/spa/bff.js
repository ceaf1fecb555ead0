// How a page talks to its gateway: every call below /bff carries X-BFF, a 503
// is waited for, and a 401 means that the session is over.

// Ended: there is no session any more, and this is why.
export class Ended extends Error {
  constructor(problem) {
    super(problem.reason ?? problem.code ?? "login_required");
    this.problem = problem;
  }
}

// Trouble: something between here and there does not work. The session is intact.
export class Trouble extends Error {
  constructor(text, retryAfter) {
    super(text);
    this.retryAfter = retryAfter;
  }
}

const tries = 4;
const pause = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

// bff calls an endpoint of the gateway and returns its JSON. tell hears of every
// answer. background calls say that nobody is there, so that they don't count
// against the idle timeout.
export async function bff(method, path, { tell = () => {}, background = false } = {}) {
  const headers = { "X-BFF": "1", Accept: "application/json" };
  if (background) headers["X-BFF-Background"] = "1";
  for (let n = 1; ; n++) {
    let response;
    try {
      response = await fetch(path, { method, headers, cache: "no-store" });
    } catch {
      tell(`${method} ${path}: no answer`, true);
      if (n === tries) throw new Trouble("The gateway does not answer.", 5);
      await pause(n);
      continue;
    }
    const body = await response.json().catch(() => ({}));
    tell(`${method} ${path}: ${response.status} ${body.code ?? ""} ${body.reason ?? ""}`, !response.ok);
    if (response.ok) return body;
    if (response.status === 401) throw new Ended(body);
    const retryAfter = Number(response.headers.get("Retry-After")) || body.retry_after || 2;
    if (response.status !== 503) throw new Trouble(body.title ?? `The answer was ${response.status}.`, retryAfter);
    if (n === tries) throw new Trouble(body.title ?? "Not there for the moment.", retryAfter);
    await pause(Math.min(retryAfter, 10));
  }
}
