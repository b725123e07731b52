// Preloaded into servers that would listen on every interface: they get a free port of loopback, and print it.
const { Server } = require("node:net");
const listen = Server.prototype.listen;
Server.prototype.listen = function (_port, ...rest) {
  const ready = rest.find((argument) => typeof argument === "function");
  return listen.call(this, 0, "127.0.0.1", () => {
    console.log(`http://127.0.0.1:${this.address().port}/mcp`);
    ready?.();
  });
};
