// node build.mjs SOURCE WIT COMPONENT [FEATURE…]: makes a component that needs its host and these features, no others.
import { readFile, writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

const [source, witPath, component, ...wanted] = process.argv.slice(2);
const features = ["clocks", "fetch-event", "http", "random", "stdio"];
const made = await componentize(await readFile(source, "utf8"), {
  witPath,
  worldName: "plugin",
  disableFeatures: features.filter((feature) => !wanted.includes(feature)),
});
await writeFile(component, made.component);
