// The second TypeScript SDK lists the tools and calls one: typescript_v2.mjs URL TOKEN (legacy | auto | REVISION)
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';

const [url, token, mode] = process.argv.slice(2);
const versionNegotiation = mode === 'legacy' ? undefined : mode === 'auto' ? { mode: 'auto' } : { mode: { pin: mode } };
const client = new Client({ name: 'test', version: '1' }, versionNegotiation ? { versionNegotiation } : {});
const transport = new StreamableHTTPClientTransport(new URL(url), {
  requestInit: { headers: { Authorization: `Bearer ${token}` } },
});
await client.connect(transport);
const { tools } = await client.listTools();
const result = await client.callTool({ name: 'hash_digest', arguments: { text: 'abc' } });
const failed = await client.callTool({ name: 'hash_digest', arguments: {} });
console.log(JSON.stringify({
  revision: client.getNegotiatedProtocolVersion?.() ?? transport.protocolVersion,
  tools: tools.map((tool) => tool.name),
  text: result.content[0].text,
  structured: result.structuredContent,
  failed: failed.isError,
}));
await client.close();
