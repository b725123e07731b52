// A plugin in JavaScript that asks other servers: it is granted `clock`, `random` and the hosts in `allow_hosts`.
const definition = {
  name: "fetch",
  description: "Fetches a page.",
  inputSchema: { type: "object", properties: { url: { type: "string" } }, required: ["url"] },
};

export function listTools() {
  return [JSON.stringify(definition)];
}

export async function callTool(name, args) {
  try {
    const response = await fetch(JSON.parse(args).url);
    return JSON.stringify({ status: response.status, text: await response.text() });
  } catch (error) {
    throw error.message;
  }
}
