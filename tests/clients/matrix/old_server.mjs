// A server of 2025-11-25 in the first TypeScript SDK that offers every method: old_server.mjs FOLDER
//
// What changes stands in FOLDER, as the size of a file, so that all processes of this server see a change and tell of it.
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { InMemoryTaskMessageQueue, InMemoryTaskStore } from '@modelcontextprotocol/sdk/experimental/tasks/stores/in-memory.js';
import { completable } from '@modelcontextprotocol/sdk/server/completable.js';
import { McpServer, ResourceTemplate } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StdioServerTransport } from '@modelcontextprotocol/sdk/server/stdio.js';
import { SubscribeRequestSchema, UnsubscribeRequestSchema } from '@modelcontextprotocol/sdk/types.js';
import { z } from 'zod';

const ME = 'old';
const WATCHED = `${ME}://watched`;
const folder = process.argv[2];
const file = (name) => path.join(folder, `${ME}-${name}`);
const count = (what) => fs.statSync(file(what), { throwIfNoEntry: false })?.size ?? 0;
const changed = (what) => `changed ${count(what)} times`;
const text = (said, more = {}) => ({ content: [{ type: 'text', text: said }], ...more });

const server = new McpServer(
  { name: ME, version: '1' },
  {
    capabilities: {
      logging: {},
      completions: {},
      resources: { subscribe: true, listChanged: true },
      prompts: { listChanged: true },
      tools: { listChanged: true },
      tasks: { list: {}, cancel: {}, requests: { tools: { call: {} } } },
    },
    taskStore: new InMemoryTaskStore(),
    taskMessageQueue: new InMemoryTaskMessageQueue(),
  },
);
const peer = server.server;

// Tools

const tool = (name, inputSchema, work, more = {}) =>
  server.registerTool(name, { description: `The tool ${name}.`, inputSchema, ...more }, work);

tool(
  'add',
  { a: z.number().int(), b: z.number().int() },
  ({ a, b }) => text(String(a + b), { structuredContent: { sum: a + b } }),
  { outputSchema: { sum: z.number().int() } },
);
tool('fail', {}, () => text('it failed as it should', { isError: true }));
tool('form', {}, async () => {
  const requestedSchema = { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] };
  const { action, content } = await peer.elicitInput({ message: 'Who?', requestedSchema });
  return text(`form: ${action} ${content?.name}`);
});
tool('url', {}, async () => {
  const where = { mode: 'url', message: 'Sign in', url: 'https://example.com/in', elicitationId: 'sign-in' };
  const { action } = await peer.elicitInput(where);
  return text(`url: ${action}`);
});
tool('sample', {}, async () => {
  const content = { type: 'text', text: 'The capital of France?' };
  const said = await peer.createMessage({ messages: [{ role: 'user', content }], maxTokens: 10 });
  return text(`sample: ${said.content.text}`);
});
tool('roots', {}, async () => {
  const { roots } = await peer.listRoots();
  return text(`roots: ${roots.map((root) => root.uri).join(' ')}`);
});
tool('log', {}, async () => {
  await peer.sendLoggingMessage({ level: 'debug', data: 'all is well' });
  await peer.sendLoggingMessage({ level: 'warning', data: 'careful' });
  return text('logged');
});
const tell = ({ _meta, sendNotification }, progress, total, message) =>
  _meta?.progressToken === undefined
    ? Promise.resolve()
    : sendNotification({
        method: 'notifications/progress',
        params: { progressToken: _meta.progressToken, progress, total, message },
      });
tool('progress', {}, async (_arguments, extra) => {
  for (const step of [1, 2, 3]) await tell(extra, step, 3, `step ${step}`);
  return text('done');
});
tool('slow', { mark: z.string() }, async ({ mark }, extra) => {
  fs.writeFileSync(file(mark), 'begun');
  await tell(extra, 1, 2);
  try {
    await sleep(60_000, undefined, { signal: extra.signal });
  } catch {
    fs.writeFileSync(file(mark), 'cancelled');
  }
  return text('nobody cancelled it');
});
tool('how_far', { mark: z.string() }, ({ mark }) =>
  text(fs.existsSync(file(mark)) ? fs.readFileSync(file(mark), 'utf8') : 'not begun'),
);
const change = tool('change', { what: z.string() }, ({ what }) => {
  fs.appendFileSync(file(what), '.');
  return text(String(count(what)));
});
server.experimental.tasks.registerToolTask(
  'task',
  { description: 'The tool task.', inputSchema: {}, execution: { taskSupport: 'optional' } },
  {
    async createTask(_arguments, { taskStore }) {
      const task = await taskStore.createTask({ ttl: 60_000, pollInterval: 20 });
      setTimeout(() => void taskStore.storeTaskResult(task.taskId, 'completed', text('done')), 50);
      return { task };
    },
    getTask: (_arguments, { taskId, taskStore }) => taskStore.getTask(taskId),
    getTaskResult: (_arguments, { taskId, taskStore }) => taskStore.getTaskResult(taskId),
  },
);

// Prompts, resources, completion

const within = (known) => (value) => known.filter((one) => one.startsWith(value));
const greet = server.registerPrompt(
  'greet',
  { description: changed('prompts'), argsSchema: { name: completable(z.string(), within(['Ana', 'Anton', 'Berta'])) } },
  ({ name }) => ({ messages: [{ role: 'user', content: { type: 'text', text: `Greet ${name} from ${ME}.` } }] }),
);
const contents = (uri, said) => ({ contents: [{ uri: uri.href, mimeType: 'text/plain', text: said }] });
const note = server.registerResource('note', `${ME}://note`, { description: changed('resources') }, (uri) =>
  contents(uri, `kept by ${ME}`),
);
server.registerResource('watched', WATCHED, { description: 'What changes.' }, (uri) => contents(uri, changed('watched')));
server.registerResource(
  'item',
  new ResourceTemplate(`${ME}://item/{id}`, { list: undefined, complete: { id: within(['1', '10', '2']) } }),
  { description: 'One item.' },
  (uri, { id }) => contents(uri, `item ${id} of ${ME}`),
);

// Changes

const watched = new Set();
peer.setRequestHandler(SubscribeRequestSchema, ({ params }) => {
  watched.add(params.uri);
  return {};
});
peer.setRequestHandler(UnsubscribeRequestSchema, ({ params }) => {
  watched.delete(params.uri);
  return {};
});
// `update` tells the client that the list changed.
const tells = {
  tools: () => change.update({ description: changed('tools') }),
  prompts: () => greet.update({ description: changed('prompts') }),
  resources: () => note.update({ metadata: { description: changed('resources') } }),
  watched: () => watched.has(WATCHED) && peer.sendResourceUpdated({ uri: WATCHED }),
};
change.update({ description: changed('tools') });
const known = Object.fromEntries(Object.keys(tells).map((what) => [what, count(what)]));
setInterval(() => {
  for (const [what, say] of Object.entries(tells)) {
    const now = count(what);
    if (now !== known[what]) {
      known[what] = now;
      say();
    }
  }
}, 20);

process.stdin.on('end', () => process.exit(0));
await server.connect(new StdioServerTransport());
