// A client of the second TypeScript SDK that is asked and told: asked_v2.mjs URL TOKEN (legacy | REVISION)
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';

const [url, token, mode] = process.argv.slice(2);
const versionNegotiation = mode === 'legacy' ? {} : { versionNegotiation: { mode: { pin: mode } } };
const client = new Client(
  { name: 'test', version: '1' },
  { capabilities: { elicitation: {} }, ...versionNegotiation },
);
const questions = [];
client.setRequestHandler('elicitation/create', ({ params }) => {
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
  { onprogress: ({ progress: done }) => progress.push(done) },
);
console.log(JSON.stringify({
  revision: client.getNegotiatedProtocolVersion?.() ?? transport.protocolVersion,
  questions,
  text: asked.content.map((part) => part.text).join(' '),
  progress,
  long: long.content[0].text,
}));
await client.close();
