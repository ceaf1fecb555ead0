// The operators' console: /admin/sessions for people. What it knows it has from
// there, and it keeps nothing: the token is in this module's variable, and is
// gone with the page. Whatever comes from a session was once chosen by a
// stranger, so all of it is put in as text.

const $ = (id) => document.getElementById(id);

const patience = 30_000; // for an answer; the gateway itself gives up after 25 s
const healthEvery = 5_000;

let token = '';
let lookup = null; // what is shown: { query, whose }, asked again after an order
let asked = 0; // lookups so far: the answer to an older one comes too late
let order = null; // what the dialog is about

// Problem is a refusal: a problem document of the gateway's, or no answer at all.
class Problem extends Error {
  constructor(status, { code, title, detail, retry_after: retryAfter }) {
    super(title ?? `HTTP ${status}`);
    Object.assign(this, { status, code, detail, retryAfter });
  }

  // parts are what a person is told of it, code and all.
  get parts() {
    const parts = [this.detail ? `${this.message.replace(/\.$/, '')}: ${this.detail}. ` : `${this.message} `];
    if (this.retryAfter) parts.push(`Wait ${this.retryAfter} s. `);
    if (this.code) parts.push(make('code', this.code));
    return parts;
  }
}

const noAnswer = { code: 'no_answer', title: 'The gateway did not answer. An order may have been obeyed or not: give it again.' };

// call asks the admin API, or gives it an order. The paths are relative, so that
// the console works behind a forwarder's prefix, too.
async function call(path, body) {
  const headers = new Headers({ Accept: 'application/json' });
  if (token) headers.set('Authorization', `Bearer ${token}`);
  const init = { headers, cache: 'no-store', credentials: 'omit', redirect: 'error', signal: AbortSignal.timeout(patience) };
  if (body) {
    headers.set('Content-Type', 'application/json');
    Object.assign(init, { method: 'POST', body: JSON.stringify(body) });
  }
  let response, answer;
  try {
    response = await fetch(path, init);
    answer = await response.json();
  } catch {
    throw new Problem(0, noAnswer);
  }
  if (!response.ok) throw new Problem(response.status, answer);
  return answer;
}

// make makes an element. Strings among its children become text, never markup.
function make(tag, ...children) {
  const e = document.createElement(tag);
  e.append(...children);
  return e;
}

const say = (id, ...parts) => $(id).replaceChildren(...parts);

// --- The token

function hold(value) {
  token = value;
  $('token').value = '';
  $('token-form').hidden = token !== '';
  $('token-held').hidden = token === '';
  say('token-trouble');
}

function forget() {
  hold('');
  lookup = null;
  asked++;
  $('order').close();
  for (const form of document.forms) form.reset();
  for (const id of ['done', 'trouble', 'sessions', 'caption', 'apps', 'order-facts']) say(id);
  $('found').hidden = true;
}

$('token-form').addEventListener('submit', (event) => {
  event.preventDefault();
  hold($('token').value);
  if (lookup) look(lookup);
});
$('forget').addEventListener('click', () => {
  forget();
  $('token').focus();
});
// A page that the browser keeps for the back button keeps its variables, too.
addEventListener('pagehide', forget);

// refused tells of a problem; where it is the token, next to its field.
function refused(problem, id) {
  if (!(problem instanceof Problem)) throw problem;
  if (problem.status !== 401) {
    say(id, ...problem.parts);
    return;
  }
  const had = token !== '';
  $('order').close();
  hold('');
  say('token-trouble', had ? 'The gateway doesn’t know this token. ' : 'The gateway asks for its admin token. ', make('code', problem.code));
  $('token').focus();
}

// --- Looking up

// look shows a lookup's sessions. done is told above them, as what led to it.
async function look(what, done = []) {
  const mine = ++asked;
  lookup = what;
  say('trouble');
  say('done', ...done);
  $('found').setAttribute('aria-busy', 'true');
  try {
    const { sessions } = await call(`admin/sessions?${new URLSearchParams(what.query)}`);
    if (mine === asked) show(sessions, what);
  } catch (problem) {
    if (mine !== asked) return;
    if (problem.status !== 401) lookup = null; // else it waits for the token
    $('found').hidden = true;
    refused(problem, 'trouble');
  } finally {
    if (mine === asked) $('found').removeAttribute('aria-busy');
  }
}

function show(sessions, { query }) {
  const named = query.sub ? [' of ', make('code', query.sub)] : [];
  if (query.sub && query.app) named.push(' at ', make('code', query.app));
  const count = query.sub ? `${sessions.length || 'No'} live session${sessions.length === 1 ? '' : 's'}` : 'One session';
  say('caption', count, ...named);
  say('sessions', ...sessions.map(row));
  say('apps', ...[...new Set(sessions.map((s) => s.app))].map((name) => Object.assign(make('option'), { value: name })));
  $('found').hidden = false;
  // The button that was pressed may have gone with its row.
  if (document.activeElement === document.body) $('caption').focus();
}

function row(s) {
  const sid = make('th', make('code', s.sid));
  sid.scope = 'row';
  const state = s.ended ? ['ended', s.reason ? `: ${s.reason}` : '', s.locked ? ', locked' : ''].join('') : 'live';
  const badge = make('span', state);
  badge.className = `state ${s.ended ? 'ended' : 'live'}`;
  const actions = make('td');
  if (!s.ended) actions.append(button('End …', `End session ${s.sid}`, () => open(endOne(s)), 'danger'));
  if (s.locked) actions.append(button('Unlock …', `Unlock session ${s.sid}`, () => open(unlockOne(s))));
  return make('tr', sid, pair(s.sub, s.app), pair(s.browser, s.address),
    make('td', when(s.created_at)), make('td', when(s.seen_at)), make('td', when(s.expires_at)), make('td', badge), actions);
}

// pair is a cell of two lines. What an ended session has forgotten is left out.
const pair = (...lines) => make('td', ...lines.map((line, i) => make(i ? 'small' : 'span', line ?? '')));

function button(text, label, act, kind = '') {
  const b = make('button', text);
  Object.assign(b, { type: 'button', className: kind, ariaLabel: label });
  b.addEventListener('click', act);
  return b;
}

// when shows a time in the reader's own zone; pointed at, it says all of it, in UTC.
function when(text) {
  if (!text) return '';
  const time = make('time', new Date(text).toLocaleString(undefined, { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit' }));
  Object.assign(time, { dateTime: text, title: text });
  return time;
}

// --- Orders: each says what it means, and whom it is about

const sessionFacts = (s) => [['Session', s.sid], ['App', s.app], ['Subject', s.sub], ['Browser', s.browser], ['Address', s.address]];

const endOne = (s) => ({
  path: 'end', body: { sid: s.sid }, facts: sessionFacts(s), go: 'End this session',
  title: 'End one session?', means: 'This session ends, and its browser has to log in again. The user’s other sessions go on.',
  lock: 'Lock it: the browser is told that the account is locked. New logins are not touched.',
});
const endUser = (sub, app) => ({
  path: 'end', body: { sub, app }, facts: [['Subject', sub], ['App', app]], go: 'End all of this user’s',
  title: 'End all sessions of a user?', means: 'Every session of this user at this app ends, in all browsers. Logins that are under way fail.',
  lock: 'Lock the user out: new logins are refused, too.',
});
const endApp = (app) => ({
  path: 'end', body: { app }, facts: [['App', app]], go: 'End everybody’s', typed: app,
  title: 'End all sessions of an app?', means: 'Everybody at this app has to log in again, at once. It can’t be undone.',
});
const unlockUser = (sub, app) => ({
  path: 'unlock', body: { sub, app }, facts: [['Subject', sub], ['App', app]], go: 'Unlock the user',
  title: 'Unlock a user?', means: 'This user may log in again. What has ended stays ended.',
});
const unlockOne = (s) => ({
  path: 'unlock', body: { sid: s.sid }, facts: sessionFacts(s), go: 'Unlock it',
  title: 'Unlock one session?', means: 'It stays ended. Its browser is asked to log in, and not told of a lock any more.',
});

function open(what) {
  order = what;
  $('order-form').reset();
  say('order-title', what.title);
  say('order-means', what.means);
  say('order-facts', ...what.facts.filter(([, value]) => value).flatMap(([name, value]) => [make('dt', name), make('dd', value)]));
  say('order-trouble');
  say('go', what.go);
  $('go').className = what.path === 'end' ? 'danger solid' : 'main';
  $('locking').hidden = !what.lock;
  say('locked-means', what.lock ?? '');
  $('until').disabled = true;
  $('typing').hidden = !what.typed;
  $('typed').required = Boolean(what.typed);
  check();
  $('order').showModal();
  $('reason').focus();
}

// check compares what was typed with what must be.
function check() {
  $('typed').setCustomValidity(order?.typed && $('typed').value !== order.typed ? 'This is another name.' : '');
}

$('typed').addEventListener('input', check);
$('locked').addEventListener('change', () => { $('until').disabled = !$('locked').checked; });
$('cancel').addEventListener('click', () => $('order').close());
$('order').addEventListener('close', () => { order = null; });

$('order-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const given = order;
  const body = { ...given.body, reason: $('reason').value };
  if (given.lock && $('locked').checked) {
    body.locked = true;
    if ($('until').value) body.until = new Date($('until').value).toISOString();
  }
  say('order-trouble');
  $('go').disabled = true;
  try {
    const answer = await call(`admin/sessions/${given.path}`, body);
    if (order === given) $('order').close();
    await obeyed(body, answer);
  } catch (problem) {
    refused(problem, order === given ? 'order-trouble' : 'trouble');
  } finally {
    $('go').disabled = false;
  }
});

// obeyed tells what an order came to, and looks again.
async function obeyed(body, { ended, all, unlocked }) {
  const whose = body.sid ? ['session ', make('code', body.sid)]
    : [...(body.sub ? [make('code', body.sub), ' at '] : []), make('code', body.app)];
  let done;
  if (unlocked) done = ['Unlocked: ', ...whose, '.'];
  else if (all) done = ['All sessions have ended: ', ...whose, '.'];
  else if (ended === 0) done = ['Nothing was alive any more: ', ...whose, '.'];
  else done = [ended === 1 ? 'One session has ended: ' : `${ended} sessions have ended: `, ...whose, '.'];
  if (body.locked) done.push(' Locked', body.until ? ` until ${new Date(body.until).toLocaleString()}` : '', '.');
  say('trouble');
  say('done', ...done);
  if (lookup) await look(lookup, done);
}

// --- The forms

// onSubmit calls the act that the pressed button is named after.
function onSubmit(id, acts) {
  $(id).addEventListener('submit', (event) => {
    event.preventDefault();
    acts[event.submitter?.value ?? Object.keys(acts)[0]]();
  });
}

const user = () => [$('user-sub').value, $('user-app').value];

onSubmit('user', {
  list() {
    const [sub, app] = user();
    look({ query: app ? { sub, app } : { sub } });
  },
  end: () => open(endUser(...user())),
  unlock: () => open(unlockUser(...user())),
});
onSubmit('session', { show: () => look({ query: { sid: $('session-sid').value.trim() } }) });
onSubmit('app', { end: () => open(endApp($('app-name').value)) });

// Only the list does without an app: which button is pressed decides.
$('user').addEventListener('click', ({ target }) => {
  if (target.type === 'submit') $('user-app').required = target.value !== 'list';
});

// --- Health

const states = {
  ready: 'This replica is ready', draining: 'This replica is about to end',
  store_unavailable: 'Redis does not answer, or takes no writes',
};

async function health() {
  let state = '';
  try {
    const response = await fetch('readyz', { cache: 'no-store', credentials: 'omit', redirect: 'error', signal: AbortSignal.timeout(healthEvery) });
    state = (await response.text()).trim();
  } catch { /* no answer is an answer, too */ }
  const text = Object.hasOwn(states, state) ? states[state] : 'This replica does not answer';
  $('health').className = state === 'ready' ? 'good' : 'bad';
  if ($('health').textContent !== text) say('health', text); // what is told again is read out again
}

async function watch() {
  if (document.visibilityState === 'visible') await health();
  setTimeout(watch, healthEvery);
}

document.addEventListener('visibilitychange', () => { if (document.visibilityState === 'visible') health(); });
watch();
