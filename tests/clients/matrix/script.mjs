// What a Node client of the matrix does, one method after another, at one server after another.
//
// Each outcome is a line of JSON: server, method, and what was seen; or why it did not work.
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';

const TRIES = 10;
const PATIENCE_MS = 2000;

/** What the server told without being asked. */
export class Heard {
  logs = [];
  events = [];

  async wait(event) {
    for (let waited = 0; waited < PATIENCE_MS; waited += 20) {
      if (this.events.includes(event)) return true;
      await sleep(20);
    }
    return false;
  }
}

/**
 * Changes something until it is heard of: a session's stream does not say when it has begun. What is heard may be of a
 * change that another client made; whoever looks again each time has to see its own in the end.
 */
async function untilSeen(heard, event, change, isThere) {
  for (let tried = 0; tried < TRIES; tried += 1) {
    heard.events.length = 0;
    const made = await change();
    let told = await heard.wait(event);
    while (told) {
      heard.events.length = 0;
      if (await isThere(made)) return event;
      told = await heard.wait(event);
      if (!told) throw new Error(`${event}: the last that is told of is not ${made} changes`);
    }
  }
  throw new Error(`${event} was not heard of`);
}

/** Changes something; returns how often it has been changed. */
const changed = async (client, server, what) => Number((await client.call(`${server}_change`, { what })).text);

/** How often something says that it has been changed. */
const times = (said) => Number(said.split(' ')[1]);

const asks = (tool) => async (client, server) => {
  const { text, failed } = await client.call(`${server}_${tool}`, {});
  if (failed) throw new Error(text);
  return text;
};

const METHODS = {
  async tools(client, server) {
    const listed = await client.tools();
    const added = await client.call(`${server}_add`, { a: 2, b: 3 });
    const failed = await client.call(`${server}_fail`, {});
    const is = (name) => (listed.has(name) ? 'True' : 'False');
    const sum = added.structured === undefined ? 'null' : `{"sum": ${added.structured.sum}}`;
    return `listed ${is(`${server}_add`)}, sum ${added.text} ${sum}, failed ${failed.failed ? 'True' : 'False'}: ${failed.text}`;
  },
  async resources(client, server) {
    const listed = (await client.resources()).has(`${server}://note`);
    return `listed ${listed ? 'True' : 'False'}, ${await client.read(`${server}://note`)}`;
  },
  async templates(client, server) {
    const listed = (await client.templates()).includes(`${server}://item/{id}`);
    return `listed ${listed ? 'True' : 'False'}, ${await client.read(`${server}://item/7`)}`;
  },
  async prompts(client, server) {
    const listed = (await client.prompts()).has(`${server}_greet`);
    return `listed ${listed ? 'True' : 'False'}, ${await client.prompt(`${server}_greet`, { name: 'Ana' })}`;
  },
  async completion(client, server) {
    const names = await client.complete({ type: 'ref/prompt', name: `${server}_greet` }, 'name', 'An');
    const items = await client.complete({ type: 'ref/resource', uri: `${server}://item/{id}` }, 'id', '1');
    return `${names.join(' ')}, ${items.join(' ')}`;
  },
  async logging(client, server) {
    await client.level('warning');
    client.heard.logs.length = 0;
    await client.call(`${server}_log`, {});
    return client.heard.logs.join(' ');
  },
  roots: asks('roots'),
  sampling: asks('sample'),
  form: asks('form'),
  url: asks('url'),
  async progress(client, server) {
    const told = [];
    const onprogress = ({ progress, total, message }) => told.push(`${progress}/${total} ${message}`);
    const { text } = await client.call(`${server}_progress`, {}, { onprogress });
    return `${told.join(', ')}, ${text}`;
  },
  async cancellation(client, server) {
    const mark = randomUUID();
    const leave = new AbortController();
    const call = client.call(
      `${server}_slow`,
      { mark },
      { onprogress: () => leave.abort(), signal: leave.signal },
    );
    const ended = await call.then(() => new Error('it was not cancelled'), (error) => error);
    if (!leave.signal.aborted) throw ended;
    let far;
    for (let tried = 0; tried < 100; tried += 1) {
      far = (await client.call(`${server}_how_far`, { mark })).text;
      if (far === 'cancelled') return far;
      await sleep(50);
    }
    throw new Error(`still ${far}`);
  },
  async list_changes(client, server) {
    const seen = [];
    const stop = await client.listen({ lists: true });
    for (const [what, item, listed] of [
      ['tools', `${server}_change`, () => client.tools()],
      ['prompts', `${server}_greet`, () => client.prompts()],
      ['resources', `${server}://note`, () => client.resources()],
    ]) {
      const isThere = async (count) => times((await listed()).get(item)) >= count;
      seen.push(await untilSeen(client.heard, what, () => changed(client, server, what), isThere));
    }
    await stop();
    return seen.join(' ');
  },
  async subscriptions(client, server) {
    const uri = `${server}://watched`;
    const stop = await client.listen({ uri });
    const isThere = async (count) => times(await client.read(uri)) >= count;
    const heard = await untilSeen(client.heard, uri, () => changed(client, server, 'watched'), isThere);
    await stop();
    return `updated ${heard}`;
  },
  tasks: (client, server) => client.task(`${server}_task`),
};

/** Runs the methods of `client`, which has one function for each. */
export async function run(client, servers, only = '') {
  const names = only ? only.split(',') : Object.keys(METHODS);
  for (const server of servers.split(',')) {
    for (const method of names) {
      const line = { server, method };
      try {
        const late = sleep(30_000, undefined, { ref: false }).then(() => { throw new Error('it takes too long'); });
        line.saw = await Promise.race([METHODS[method](client, server), late]);
      } catch (error) {
        line.failed = `${error.name}: ${error.message}`;
      }
      console.log(JSON.stringify(line));
    }
  }
}

/** What both TypeScript SDKs have in common. */
export class Sdk {
  heard = new Heard();

  constructor(client) {
    this.client = client;
  }

  async tools() {
    return new Map((await this.client.listTools()).tools.map((tool) => [tool.name, tool.description]));
  }

  async resources() {
    return new Map((await this.client.listResources()).resources.map((one) => [one.uri, one.description]));
  }

  async read(uri) {
    return (await this.client.readResource({ uri })).contents[0].text;
  }

  async templates() {
    return (await this.client.listResourceTemplates()).resourceTemplates.map((one) => one.uriTemplate);
  }

  async prompts() {
    return new Map((await this.client.listPrompts()).prompts.map((prompt) => [prompt.name, prompt.description]));
  }

  async prompt(name, args) {
    return (await this.client.getPrompt({ name, arguments: args })).messages[0].content.text;
  }

  async complete(ref, name, value) {
    return (await this.client.complete({ ref, argument: { name, value } })).completion.values;
  }
}

/** A tool's result in the script's words. */
export const said = (result) => ({
  text: result.content.map((part) => part.text).join(' '),
  structured: result.structuredContent,
  failed: result.isError === true,
});

/** What the client answers when it is asked. */
export const ANSWERS = {
  'elicitation/create': ({ params }) =>
    params.mode === 'url' ? { action: 'accept' } : { action: 'accept', content: { name: 'Ana' } },
  'sampling/createMessage': () => ({ role: 'assistant', model: 'test', content: { type: 'text', text: 'Paris' } }),
  'roots/list': () => ({ roots: [{ uri: 'file:///matrix' }] }),
};

export const CAPABILITIES = { elicitation: { form: {}, url: {} }, sampling: {}, roots: {} };
