// The certified oidc-provider as Cloakroom's tests need it: it rotates refresh
// tokens, revokes a whole grant when one is used twice, signs access tokens as
// JWTs for one API, lets anybody log in under any name, and keeps a ledger.
//
// Set in the environment: PORT (0: any), ISSUER (none: where it listens),
// CLIENT_ID, CLIENT_SECRET, REDIRECT_URIS and POST_LOGOUT_REDIRECT_URIS (separated
// by spaces), RESOURCE (the API's identifier), ACCESS_TTL (seconds),
// BACKCHANNEL_LOGOUT_URI (none: the client is told of no logout), AUTO_LOGIN (set:
// who comes with a login_hint is logged in as "sub-" and that, without a page).
// Its first line on stdout is
// {"event":"listening","issuer":"http://…","address":"127.0.0.1:…"}; it ends when
// its stdin does.
//
// POST /tell?sub=…&sid=… tells the client's back channel of a logout that has not
// happened here, without a sid if there is none.
//
// GET /ledger lists what the token endpoint was shown and what it said, tokens
// included, so that a test can look for them where they must not be.
//
// GET /events lists what oidc-provider itself has told of grants and refresh
// tokens, event by event, since the beginning: "at" is in milliseconds of the wall
// clock, and "family" is the grant's id, which access tokens carry as a claim.
import { createHash, generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

const env = (name, otherwise) => {
  const value = process.env[name] ?? otherwise;
  if (value === undefined) throw new Error(`${name} is not set`);
  return value;
};
const list = (text) => text.split(' ').filter(Boolean);

const resource = env('RESOURCE', 'https://api.test');
const accessTTL = Number(env('ACCESS_TTL', '300'));
const apiScope = 'api:read';
const backChannel = env('BACKCHANNEL_LOGOUT_URI', '');

const server = createServer();
await new Promise((done) => { server.listen(Number(env('PORT', '0')), '127.0.0.1', done); });
const address = `127.0.0.1:${server.address().port}`;
const issuer = env('ISSUER', `http://${address}`);
const autoLogin = env('AUTO_LOGIN', '') !== '';

// All that the provider keeps, for as long as it runs: its own memory adapter
// drops what is old after a thousand entries, and a dropped token can't be reused.
const stored = new Map();
const grants = new Map(); // the keys of what belongs to a grant
const uids = new Map();
class Keep {
  constructor(model) { this.model = model; }

  key(id) { return `${this.model}:${id}`; }

  async upsert(id, payload) {
    const key = this.key(id);
    stored.set(key, payload);
    if (this.model === 'Session') uids.set(payload.uid, id);
    if (payload.grantId && this.model !== 'Session') {
      if (!grants.has(payload.grantId)) grants.set(payload.grantId, new Set());
      grants.get(payload.grantId).add(key);
    }
  }

  async find(id) { return stored.get(this.key(id)); }

  async findByUid(uid) { return this.find(uids.get(uid)); }

  async consume(id) { stored.get(this.key(id)).consumed = Math.floor(Date.now() / 1000); }

  async destroy(id) { stored.delete(this.key(id)); }

  async revokeByGrantId(grantId) {
    for (const key of grants.get(grantId) ?? []) stored.delete(key);
    grants.delete(grantId);
  }
}

const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
const signingKey = { ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'RS256', kid: 'test-1' };

const provider = new Provider(issuer, {
  adapter: Keep,
  clients: [{
    client_id: env('CLIENT_ID', 'cloakroom-test'),
    client_secret: env('CLIENT_SECRET'),
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    token_endpoint_auth_method: 'client_secret_basic',
    redirect_uris: list(env('REDIRECT_URIS')),
    post_logout_redirect_uris: list(env('POST_LOGOUT_REDIRECT_URIS', '')),
    ...(backChannel && { backchannel_logout_uri: backChannel, backchannel_logout_session_required: true }),
  }],
  jwks: { keys: [signingKey] },
  cookies: { keys: [createHash('sha256').update(privateKey.export({ type: 'pkcs8', format: 'der' })).digest('hex')] },
  claims: { openid: ['sub'], profile: ['name', 'preferred_username'], email: ['email'] },
  conformIdTokenClaims: false, // the claims are in the ID token: no userinfo call is needed
  scopes: ['openid', 'offline_access'],
  pkce: { required: () => true },
  rotateRefreshToken: true,
  extraTokenClaims: async (ctx, token) => (token.grantId ? { family: token.grantId } : undefined),
  issueRefreshToken: async (ctx, client) => client.grantTypeAllowed('refresh_token'),
  expiresWithSession: async () => false,
  ttl: {
    AccessToken: accessTTL, AuthorizationCode: 60, Grant: 86400, IdToken: 300, Interaction: 600, RefreshToken: 86400, Session: 86400,
  },
  features: {
    devInteractions: { enabled: false },
    revocation: { enabled: true },
    backchannelLogout: { enabled: true },
    rpInitiatedLogout: {
      enabled: true,
      logoutSource: async (ctx, form) => {
        ctx.body = `<!doctype html><title>Log out</title>${form}
<button id="confirm" type="submit" form="op.logoutForm" value="yes" name="logout">Log out</button>`;
      },
    },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => resource,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: apiScope,
        audience: resource,
        accessTokenTTL: accessTTL,
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: 'RS256' } },
      }),
    },
  },
  // It would rather not talk to special-use addresses such as this machine's.
  fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options),
  interactions: { url: (ctx, interaction) => `/login/${interaction.uid}` },
  findAccount: async (ctx, id) => ({
    accountId: id,
    claims: async () => ({
      sub: id, name: `${id[0].toUpperCase()}${id.slice(1)}`, preferred_username: id, email: `${id}@example.test`,
    }),
  }),
  // One first-party client: nobody is asked for consent.
  loadExistingGrant: async (ctx) => {
    const grant = new provider.Grant({ clientId: ctx.oidc.client.clientId, accountId: ctx.oidc.session.accountId });
    grant.addOIDCScope('openid offline_access profile email');
    grant.addResourceScope(resource, apiScope);
    await grant.save();
    return grant;
  },
});

const ledger = [];
const write = (ctx, outcome) => {
  const params = ctx.oidc?.params ?? {};
  ledger.push({
    time: new Date().toISOString(),
    grant_type: params.grant_type ?? '',
    outcome,
    subject: ctx.oidc?.entities?.Account?.accountId ?? '',
    presented: params.refresh_token ?? params.code ?? '',
    verifier: params.code_verifier ?? '',
    access_token: outcome === 'ok' ? ctx.body.access_token : '',
    refresh_token: outcome === 'ok' ? ctx.body.refresh_token ?? '' : '',
    id_token: outcome === 'ok' ? ctx.body.id_token ?? '' : '',
  });
};
provider.on('grant.success', (ctx) => write(ctx, 'ok'));
provider.on('grant.error', (ctx, err) => write(ctx, err.error ?? 'error'));
provider.on('grant.revoked', (ctx) => write(ctx, 'family_revoked'));
provider.on('revocation.error', (ctx, err) => write(ctx, `revocation: ${err.error}`));
const events = [];
const tell = (event, more) => events.push({ at: performance.timeOrigin + performance.now(), event, ...more });
const asked = (ctx) => {
  const { params = {}, entities = {}, route } = ctx.oidc ?? {};
  return {
    route: route ?? '',
    grant_type: params.grant_type ?? '',
    presented: params.refresh_token ?? params.code ?? '',
    family: entities.Grant?.jti ?? entities.RefreshToken?.grantId ?? entities.AuthorizationCode?.grantId ?? '',
    subject: entities.Account?.accountId ?? '',
  };
};
provider.on('grant.success', (ctx) => tell('grant.success', { ...asked(ctx), issued: ctx.body.refresh_token ?? '' }));
provider.on('grant.error', (ctx, err) => tell('grant.error', { ...asked(ctx), error: err.error ?? '', detail: err.error_detail ?? '' }));
provider.on('grant.revoked', (ctx, grantId) => tell('grant.revoked', { ...asked(ctx), family: grantId }));
for (const event of ['refresh_token.saved', 'refresh_token.consumed', 'refresh_token.destroyed', 'authorization_code.consumed']) {
  provider.on(event, (token) => tell(event, { presented: token.jti, family: token.grantId ?? '', subject: token.accountId ?? '' }));
}
provider.on('backchannel.error', (ctx, err) => { console.error(err); });
provider.on('server_error', (ctx, err) => { console.error(err); });

const readForm = async (req) => {
  let text = '';
  for await (const chunk of req) {
    text += chunk;
    if (text.length > 4096) throw new Error('too long');
  }
  return new URLSearchParams(text);
};

const callback = provider.callback();
server.on('request', async (req, res) => {
  try {
    const { pathname, searchParams } = new URL(req.url, issuer);
    if (pathname === '/ledger') {
      res.setHeader('Content-Type', 'application/json').end(JSON.stringify(ledger));
    } else if (pathname === '/events') {
      res.setHeader('Content-Type', 'application/json').end(JSON.stringify(events));
    } else if (pathname === '/tell' && req.method === 'POST') {
      const client = await provider.Client.find(env('CLIENT_ID', 'cloakroom-test'));
      await client.backchannelLogout(searchParams.get('sub'), searchParams.get('sid') ?? undefined);
      res.writeHead(204).end();
    } else if (pathname.startsWith('/login/') && req.method === 'POST') {
      const username = (await readForm(req)).get('username') ?? '';
      if (!/^[a-z]{1,20}$/.test(username)) throw new Error('a username is 1 to 20 letters a-z');
      await provider.interactionFinished(req, res, { login: { accountId: username } }, { mergeWithLastSubmission: false });
    } else if (pathname.startsWith('/login/') && autoLogin) {
      const { params } = await provider.interactionDetails(req, res);
      if (!/^[a-z0-9]{1,20}$/.test(params.login_hint ?? '')) throw new Error('a login_hint is 1 to 20 of a-z0-9');
      await provider.interactionFinished(req, res, { login: { accountId: `sub-${params.login_hint}` } }, { mergeWithLastSubmission: false });
    } else if (pathname.startsWith('/login/')) {
      res.setHeader('Content-Type', 'text/html; charset=utf-8').end(`<!doctype html><title>Test provider</title>
<form method="post"><label>Name <input id="username" name="username" autofocus></label> <button id="submit">Log in</button></form>`);
    } else {
      callback(req, res);
    }
  } catch (err) {
    console.error(err);
    res.writeHead(500).end();
  }
});

process.stdin.on('end', () => process.exit(0)).resume();
console.log(JSON.stringify({ event: 'listening', issuer, address }));
