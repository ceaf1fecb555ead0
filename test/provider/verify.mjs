// A resource server's check of an access token, by jose and nothing else: its
// keys come from the issuer's jwks_uri. Set in the environment: JWKS (the URL),
// ISSUER, AUDIENCE. Each line on stdin is a token; each line on stdout is its
// {"header":…,"claims":…}, or {"error":"…"}.
import { createInterface } from 'node:readline';
import { createRemoteJWKSet, jwtVerify } from 'jose';

const keys = createRemoteJWKSet(new URL(process.env.JWKS), { cooldownDuration: 0 });
for await (const token of createInterface({ input: process.stdin })) {
  try {
    const { payload, protectedHeader } = await jwtVerify(token, keys, {
      issuer: process.env.ISSUER,
      audience: process.env.AUDIENCE,
      typ: 'at+jwt',
      algorithms: ['ES256', 'EdDSA', 'RS256'],
      requiredClaims: ['sub', 'exp', 'iat', 'jti', 'client_id'],
    });
    console.log(JSON.stringify({ header: protectedHeader, claims: payload }));
  } catch (err) {
    console.log(JSON.stringify({ error: err.code ?? String(err) }));
  }
}
