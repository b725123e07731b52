// The second TypeScript SDK as a client of the matrix: typescript_v2.mjs URL TOKEN REVISION SERVERS [METHODS], lists with commas.
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { createTaskSessionFromClient, resultFromTaskOutcome } from '@modelcontextprotocol/ext-tasks/client';
import { ANSWERS, CAPABILITIES, Sdk, run, said } from './script.mjs';

const NEWEST = '2026-07-28';
const [url, token, revision, servers, only] = process.argv.slice(2);
const isNew = revision === NEWEST;
const headers = { Authorization: `Bearer ${token}` };
const clientInfo = { name: 'matrix', version: '1' };

/** Sends what the SDK's codecs do not let through: the tasks package wants its host to do it. */
let sent = 0;
async function rawDispatch(request) {
  sent += 1;
  const response = await fetch(url, {
    method: 'POST',
    headers: {
      ...headers,
      Accept: 'application/json, text/event-stream',
      'Content-Type': 'application/json',
      'MCP-Protocol-Version': NEWEST,
      'Mcp-Method': request.method,
      'Mcp-Name': request.params.taskId ?? request.params.name,
    },
    body: JSON.stringify({ jsonrpc: '2.0', id: `raw-${sent}`, ...request }),
  });
  const body = await response.text();
  const json = body.startsWith('{') ? body : body.split('\n').findLast((line) => line.startsWith('data:')).slice(5);
  const { result, error } = JSON.parse(json);
  return error ? { kind: 'error', error } : { kind: 'result', result };
}

class V2 extends Sdk {
  async call(name, args, options) {
    const _meta = isNew ? { 'io.modelcontextprotocol/logLevel': 'warning' } : undefined;
    return said(await this.client.callTool({ name, arguments: args, _meta }, options));
  }

  async level(level) {
    // In the newest revision each request says it.
    if (!isNew) await this.client.setLoggingLevel(level);
  }

  async listen({ lists, uri }) {
    if (isNew) {
      const stream = await this.client.listen({
        toolsListChanged: lists,
        promptsListChanged: lists,
        resourcesListChanged: lists,
        resourceSubscriptions: uri ? [uri] : undefined,
      });
      return () => stream.close();
    }
    if (!uri) return () => {};
    await this.client.subscribeResource({ uri });
    return () => this.client.unsubscribeResource({ uri });
  }

  async task(name) {
    const framing = { protocolVersion: NEWEST, clientInfo, clientCapabilities: CAPABILITIES };
    const raw = isNew ? { rawDispatch, v2RequestFraming: framing } : {};
    const session = createTaskSessionFromClient(this.client, { endpointId: 'matrix', ...raw });
    try {
      const execution = await session.callTool(name, {});
      const { outcome } = await execution.settle();
      return (execution.kind === 'task' ? 'a task: ' : '') + said(resultFromTaskOutcome(outcome)).text;
    } finally {
      await session.close();
    }
  }
}

const client = new Client(clientInfo, {
  capabilities: CAPABILITIES,
  ...(isNew ? { versionNegotiation: { mode: { pin: NEWEST } } } : { supportedProtocolVersions: [revision] }),
});
const sdk = new V2(client);
for (const [method, answer] of Object.entries(ANSWERS)) client.setRequestHandler(method, answer);
client.setNotificationHandler('notifications/message', ({ params }) => {
  sdk.heard.logs.push(`${params.level} ${params.data}`);
});
for (const what of ['tools', 'prompts', 'resources']) {
  client.setNotificationHandler(`notifications/${what}/list_changed`, () => void sdk.heard.events.push(what));
}
client.setNotificationHandler('notifications/resources/updated', ({ params }) => void sdk.heard.events.push(params.uri));
const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
await client.connect(transport);
console.log(JSON.stringify({ revision: client.getNegotiatedProtocolVersion() }));
await run(sdk, servers, only);
if (!isNew) await transport.terminateSession();
await client.close();
