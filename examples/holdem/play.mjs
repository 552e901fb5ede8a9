// Texas Hold'em against a model and bots, in the browser: npm run holdem [-- --model PATH --port 8090]

import { parseArgs } from "node:util";
import { Engine } from "block-attention";
import { createHoldemServer } from "./server.mjs";

const { values } = parseArgs({
  options: {
    model: { type: "string" },
    port: { type: "string", default: "8090" },
    host: { type: "string", default: "127.0.0.1" },
  },
});
const port = Number(values.port);
if (!Number.isInteger(port) || port < 0 || port > 65_535) {
  console.error(`Cannot listen: the port is ${JSON.stringify(values.port)}, wanted 0 to 65535`);
  process.exit(2);
}
const engine = await Engine.load({
  ...(values.model && { model: values.model }),
  mapWeights: true,
  onWarning: console.error,
});
const server = createHoldemServer(engine);
server.on("error", (error) => {
  console.error(`Cannot listen: ${error.message}`);
  process.exit(1);
});
server.listen(port, values.host, () =>
  console.log(`Playing with ${engine.info.name} at http://${values.host}:${server.address().port}`),
);
for (const signal of ["SIGINT", "SIGTERM"]) {
  process.once(signal, async () => {
    server.close();
    server.closeAllConnections();
    await engine[Symbol.asyncDispose]();
    process.exit(0);
  });
}
