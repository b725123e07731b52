// The first TypeScript SDK as a client of the matrix: typescript_v1.mjs URL TOKEN REVISION SERVERS [METHODS], lists with commas.
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  ListRootsRequestSchema,
  LoggingMessageNotificationSchema,
  PromptListChangedNotificationSchema,
  ResourceListChangedNotificationSchema,
  ResourceUpdatedNotificationSchema,
  ToolListChangedNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js';
import { ANSWERS, CAPABILITIES, Sdk, run, said } from './script.mjs';

const [url, token, revision, servers, only] = process.argv.slice(2);

class V1 extends Sdk {
  async call(name, args, options) {
    return said(await this.client.callTool({ name, arguments: args }, undefined, options));
  }

  async level(level) {
    await this.client.setLoggingLevel(level);
  }

  async listen({ uri }) {
    if (!uri) return () => {};
    await this.client.subscribeResource({ uri });
    return () => this.client.unsubscribeResource({ uri });
  }

  /** The SDK's own way to call what may become a task. */
  async task(name) {
    let became = '';
    for await (const message of this.client.experimental.tasks.callToolStream({ name, arguments: {} })) {
      if (message.type === 'taskCreated') became = 'a task: ';
      if (message.type === 'error') throw message.error;
      if (message.type === 'result') return became + said(message.result).text;
    }
    throw new Error('it has no end');
  }
}

/** Offers another revision than the newest that it speaks, for which the SDK has no option. */
class Transport extends StreamableHTTPClientTransport {
  send(message, options) {
    if (message.method === 'initialize') message.params.protocolVersion = revision;
    return super.send(message, options);
  }
}

const client = new Client({ name: 'matrix', version: '1' }, { capabilities: CAPABILITIES });
const sdk = new V1(client);
client.setRequestHandler(ElicitRequestSchema, ANSWERS['elicitation/create']);
client.setRequestHandler(CreateMessageRequestSchema, ANSWERS['sampling/createMessage']);
client.setRequestHandler(ListRootsRequestSchema, ANSWERS['roots/list']);
client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => {
  sdk.heard.logs.push(`${params.level} ${params.data}`);
});
for (const [schema, event] of [
  [ToolListChangedNotificationSchema, 'tools'],
  [PromptListChangedNotificationSchema, 'prompts'],
  [ResourceListChangedNotificationSchema, 'resources'],
]) {
  client.setNotificationHandler(schema, () => void sdk.heard.events.push(event));
}
client.setNotificationHandler(ResourceUpdatedNotificationSchema, ({ params }) => void sdk.heard.events.push(params.uri));
const transport = new Transport(new URL(url), { requestInit: { headers: { Authorization: `Bearer ${token}` } } });
await client.connect(transport);
console.log(JSON.stringify({ revision: transport.protocolVersion }));
await run(sdk, servers, only);
await transport.terminateSession();
await client.close();
