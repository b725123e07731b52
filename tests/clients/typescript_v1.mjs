// The first TypeScript SDK lists the tools and calls one: typescript_v1.mjs URL TOKEN
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

const [url, token] = process.argv.slice(2);
const client = new Client({ name: 'test', version: '1' });
const transport = new StreamableHTTPClientTransport(new URL(url), {
  requestInit: { headers: { Authorization: `Bearer ${token}` } },
});
await client.connect(transport);
await client.ping();
const { tools } = await client.listTools();
const result = await client.callTool({ name: 'hash_digest', arguments: { text: 'abc' } });
const failed = await client.callTool({ name: 'hash_digest', arguments: {} });
console.log(JSON.stringify({
  tools: tools.map((tool) => tool.name),
  text: result.content[0].text,
  structured: result.structuredContent,
  failed: failed.isError,
}));
await client.close();
