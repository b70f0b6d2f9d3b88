// An identity provider of the tests: https on loopback, any password, groups by name. It ends with its standard input.
//   provider.mjs NODE_MODULES CERTIFICATE KEY CLIENT_ID CLIENT_SECRET REDIRECT_URI...      prints its issuer
import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { pathToFileURL } from 'node:url';

const [modules, certificate, key, clientId, clientSecret, ...redirectUris] = process.argv.slice(2);
const { default: Provider } = await import(pathToFileURL(`${modules}/oidc-provider/lib/index.js`));
const GROUPS = { olga: ['models-operators', 'staff'], vera: ['models-viewers'], nina: ['staff'] };

const signingKey = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' });

function configuration() {
  return {
    // Without a page of its own for it: who logs in agrees.
    async loadExistingGrant({ oidc: { client, session, provider } }) {
      const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
      grant.addOIDCScope('openid email profile groups');
      await grant.save();
      return grant;
    },
    clients: [{
      client_id: clientId, client_secret: clientSecret, redirect_uris: redirectUris,
      response_types: ['code'], grant_types: ['authorization_code'],
    }],
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'], groups: ['groups'] },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, email: `${id}@example.com`, email_verified: true, name: id, groups: GROUPS[id] ?? [] }),
    }),
    cookies: { keys: ['of the tests'] },
    jwks: { keys: [{ ...signingKey, use: 'sig', alg: 'RS256', kid: 'of-the-tests' }] },
    pkce: { required: () => true },
  };
}

const server = createServer({ cert: readFileSync(certificate), key: readFileSync(key) });
server.listen(0, '127.0.0.1', () => {
  const issuer = `https://127.0.0.1:${server.address().port}`;
  server.on('request', new Provider(issuer, configuration()).callback());
  console.log(issuer);
});
process.stdin.on('end', () => process.exit()).resume();
