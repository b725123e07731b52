// A client of the first TypeScript SDK that works in tasks of 2025-11-25: tasks_v1.mjs URL TOKEN
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { CallToolResultSchema, ElicitRequestSchema } from '@modelcontextprotocol/sdk/types.js';

const [url, token] = process.argv.slice(2);
const client = new Client({ name: 'test', version: '1' }, { capabilities: { elicitation: { form: {} } } });
client.setRequestHandler(ElicitRequestSchema, () => ({
  action: 'accept',
  content: { ok: true, interpretation: 'snake' },
}));
const headers = { Authorization: `Bearer ${token}` };
await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } }));
await client.listTools();
const { tasks } = client.experimental;

/** Calls a tool as a task: what comes of it. */
const outcome = async (name, args) => {
  for await (const message of tasks.callToolStream({ name, arguments: args }, CallToolResultSchema, { task: { ttl: 60_000 } })) {
    if (message.type === 'result') return { text: message.result.content[0].text };
    if (message.type === 'error') return { failed: message.error.message };
  }
};
/** Begins a task and cancels it. */
const cancelled = async () => {
  const params = { name: 'slow_compute', arguments: { seconds: 600 } };
  for await (const message of tasks.callToolStream(params, CallToolResultSchema, { task: { ttl: 60_000 } })) {
    if (message.type === 'taskCreated') return (await tasks.cancelTask(message.task.taskId)).status;
  }
};

const said = {
  asked: await outcome('confirm_delete', { filename: 'a' }),
  failing: await outcome('failing_job', {}),
  broken: await outcome('protocol_error_job', {}),
  at_once: await outcome('greet', { name: 'Ana' }),
  older: await outcome('everything_simulate-research-query', { topic: 'python', ambiguous: true }),
  cancelled: await cancelled(),
};
const listed = await tasks.listTasks();
said.listed = listed.tasks.map(({ status }) => status).sort();
console.log(JSON.stringify(said));
await client.transport.terminateSession();
await client.close();
