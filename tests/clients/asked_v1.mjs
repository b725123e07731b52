// A client of the first TypeScript SDK that is asked and told, over HTTP or WebSocket: asked_v1.mjs URL TOKEN
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { WebSocketClientTransport } from '@modelcontextprotocol/sdk/client/websocket.js';
import { ElicitRequestSchema } from '@modelcontextprotocol/sdk/types.js';
import WebSocket from 'ws';

const [url, token] = process.argv.slice(2);
const client = new Client({ name: 'test', version: '1' }, { capabilities: { elicitation: {} } });
const questions = [];
client.setRequestHandler(ElicitRequestSchema, ({ params }) => {
  questions.push(params.message);
  return { action: 'accept', content: { name: 'Ana' } };
});
const headers = { Authorization: `Bearer ${token}` };
// The SDK's transport is for browsers: it has no place for a token, and wants each message in a turn of its own.
globalThis.WebSocket = class extends WebSocket {
  constructor(address, protocols) {
    super(address, protocols, { headers, allowSynchronousEvents: false });
  }
};
const transport = url.startsWith('ws')
  ? new WebSocketClientTransport(new URL(url))
  : new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
await client.connect(transport);
const asked = await client.callTool({ name: 'everything_trigger-elicitation-request', arguments: {} });
const progress = [];
const long = await client.callTool(
  { name: 'everything_trigger-long-running-operation', arguments: { duration: 1, steps: 3 } },
  undefined,
  { onprogress: ({ progress: done }) => progress.push(done) },
);
console.log(JSON.stringify({
  revision: transport.protocolVersion ?? null,
  questions,
  text: asked.content.map((part) => part.text).join(' '),
  progress,
  long: long.content[0].text,
}));
await transport.terminateSession?.();
await client.close();
