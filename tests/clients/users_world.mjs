// An authorization server (oidc-provider) that exchanges our word on a user for a token of that user, and an MCP server (SDK 1,
// 2025-11-25, with sessions) that lets in who has such a token and says who that is.
//
//   node users_world.mjs PUBLIC_KEY_FILE   prints {"issuer": URL, "mcp": URL} on one line
import { createPublicKey, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { once } from 'node:events';
import { createServer } from 'node:http';
import express from 'express';
import { exportJWK, generateKeyPair, importJWK, jwtVerify } from 'jose';
import Provider, { errors } from 'oidc-provider';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import { InvalidTokenError } from '@modelcontextprotocol/sdk/server/auth/errors.js';
import { requireBearerAuth } from '@modelcontextprotocol/sdk/server/auth/middleware/bearerAuth.js';

const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const KNOWN = ['ana', 'ben'];
const listen = async (handler) => {
  const server = createServer(handler);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return [server, `http://127.0.0.1:${server.address().port}`];
};

const { privateKey } = await generateKeyPair('RS256', { extractable: true });
const [issuing, issuer] = await listen();
const provider = new Provider(issuer, {
  clients: [
    {
      client_id: 'sweetmcp',
      client_secret: 'a secret: with % and +',
      grant_types: [EXCHANGE, 'client_credentials'],
      redirect_uris: [],
      response_types: [],
      token_endpoint_auth_method: 'client_secret_basic',
    },
    { client_id: 'tracker', client_secret: 'other', grant_types: [], redirect_uris: [], response_types: [] },
  ],
  features: {
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    devInteractions: { enabled: false },
  },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  scopes: ['tools'],
  jwks: { keys: [await exportJWK(privateKey)] },
});
const subjectKey = await importJWK(createPublicKey(readFileSync(process.argv[2])).export({ format: 'jwk' }), 'EdDSA');
let exchanges = 0;
provider.registerGrantType(
  EXCHANGE,
  async (ctx) => {
    const { params, client } = ctx.oidc;
    if (params.subject_token_type !== 'urn:ietf:params:oauth:token-type:jwt') throw new errors.InvalidRequest('subject_token_type');
    let user;
    try {
      const checks = { issuer: 'fleet', audience: `${issuer}/token`, requiredClaims: ['exp', 'jti', 'sub'] };
      user = (await jwtVerify(params.subject_token, subjectKey, checks)).payload.sub;
    } catch {
      throw new errors.InvalidRequest('subject_token');
    }
    if (!KNOWN.includes(user)) throw new errors.AccessDenied();
    exchanges += 1;
    const token = new provider.AccessToken({ accountId: user, client, scope: params.scope, gty: 'token_exchange' });
    ctx.body = {
      access_token: await token.save(),
      issued_token_type: 'urn:ietf:params:oauth:token-type:access_token',
      token_type: 'Bearer',
      expires_in: token.expiration,
    };
  },
  ['subject_token', 'subject_token_type', 'requested_token_type', 'scope', 'audience', 'resource'],
);
issuing.on('request', provider.callback());

const verifyAccessToken = async (token) => {
  const answer = await fetch(`${issuer}/token/introspection`, {
    method: 'POST',
    headers: { authorization: `Basic ${btoa('tracker:other')}` },
    body: new URLSearchParams({ token }),
  });
  const said = await answer.json();
  if (!said.active) throw new InvalidTokenError('unknown token');
  return { token, clientId: said.client_id, scopes: [], expiresAt: said.exp, extra: { user: said.sub ?? said.client_id } };
};

const sessions = new Map();
const app = express();
app.use(express.json());
app.all('/mcp', requireBearerAuth({ verifier: { verifyAccessToken } }), async (request, response) => {
  const { user } = request.auth.extra;
  let session = sessions.get(request.headers['mcp-session-id']);
  if (!session) {
    const id = randomUUID();
    const transport = new StreamableHTTPServerTransport({ sessionIdGenerator: () => id });
    const server = new McpServer({ name: 'tracker', version: '1' });
    server.registerTool('whoami', { description: 'Says who calls and whose session it is' }, (extra) => ({
      content: [{ type: 'text', text: JSON.stringify({ user: extra.authInfo.extra.user, session: user, exchanges }) }],
    }));
    await server.connect(transport);
    session = { transport };
    sessions.set(id, session);
  }
  await session.transport.handleRequest(request, response, request.body);
});
const [, mcp] = await listen(app);
console.log(JSON.stringify({ issuer, mcp: `${mcp}/mcp` }));
