// node build.mjs SOURCE WIT COMPONENT: makes a component that needs nothing but its host.
import { readFile, writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

const [source, witPath, component] = process.argv.slice(2);
const made = await componentize(await readFile(source, "utf8"), {
  witPath,
  worldName: "plugin",
  disableFeatures: ["clocks", "fetch-event", "http", "random", "stdio"],
});
await writeFile(component, made.component);
