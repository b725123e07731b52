// A client of the first TypeScript SDK that is asked and told: asked_v1.mjs URL TOKEN
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { ElicitRequestSchema } from '@modelcontextprotocol/sdk/types.js';

const [url, token] = process.argv.slice(2);
const client = new Client({ name: 'test', version: '1' }, { capabilities: { elicitation: {} } });
const questions = [];
client.setRequestHandler(ElicitRequestSchema, ({ params }) => {
  questions.push(params.message);
  return { action: 'accept', content: { name: 'Ana' } };
});
const transport = new StreamableHTTPClientTransport(new URL(url), {
  requestInit: { headers: { Authorization: `Bearer ${token}` } },
});
await client.connect(transport);
const asked = await client.callTool({ name: 'everything_trigger-elicitation-request', arguments: {} });
const progress = [];
const long = await client.callTool(
  { name: 'everything_trigger-long-running-operation', arguments: { duration: 1, steps: 3 } },
  undefined,
  { onprogress: ({ progress: done }) => progress.push(done) },
);
console.log(JSON.stringify({
  revision: transport.protocolVersion,
  questions,
  text: asked.content.map((part) => part.text).join(' '),
  progress,
  long: long.content[0].text,
}));
await transport.terminateSession();
await client.close();
