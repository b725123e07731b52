// A plugin in JavaScript: counts words and shouts.
import { log, progress } from "sweetmcp:plugin/host@0.1.0";

const text = { type: "object", properties: { text: { type: "string" } }, required: ["text"] };

const tools = {
  words: {
    description: "Counts the words of a text.",
    inputSchema: text,
    run({ text }) {
      progress(1, 1, "counted");
      return { words: text.split(/\s+/).filter(Boolean).length };
    },
  },
  shout: {
    description: "Says a text louder.",
    inputSchema: text,
    run({ text }) {
      if (text === "") throw new Error("there is nothing to say");
      log("info", "shouting");
      return { text: text.toUpperCase() };
    },
  },
};

export function listTools() {
  return Object.entries(tools).map(([name, { description, inputSchema }]) =>
    JSON.stringify({ name, description, inputSchema, annotations: { readOnlyHint: true } }),
  );
}

export function callTool(name, args) {
  try {
    return JSON.stringify(tools[name].run(JSON.parse(args)));
  } catch (error) {
    // What is thrown becomes the error of `result<string, string>`.
    throw error.message;
  }
}
