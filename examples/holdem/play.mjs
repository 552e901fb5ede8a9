// Texas Hold'em against a model and bots, in the browser: npm run holdem [-- --model PATH --port 8090]
import { parseArgs } from "node:util";
import { Engine } from "block-attention";
import { createHoldemServer } from "./server.mjs";

const text = { type: "string" };
let engine;

function fail(error) {
  console.error(error.message.startsWith("Cannot ") ? error.message : `Cannot play: ${error.message}`);
  process.exit(1);
}

async function play() {
  const { values } = parseArgs({
    options: { model: text, port: { ...text, default: "8090" }, host: { ...text, default: "127.0.0.1" } },
  });
  const port = Number(values.port);
  if (!Number.isInteger(port) || port < 0 || port > 65_535) {
    throw new RangeError(`Cannot listen: the port is ${JSON.stringify(values.port)}, wanted 0 to 65535`);
  }
  engine = await Engine.load({
    ...(values.model && { model: values.model }),
    mapWeights: true,
    onWarning: console.error,
  });
  const server = createHoldemServer(engine);
  server.on("error", fail);
  server.listen(port, values.host, () => {
    console.log(`Playing with ${engine.info.name} at http://${values.host}:${server.address().port}`);
  });
}

// A port that is taken, or a signal while the model loads, ends the process all the same.
for (const signal of ["SIGINT", "SIGTERM"]) {
  process.once(signal, async () => {
    await engine?.[Symbol.asyncDispose]();
    process.exit(0);
  });
}
play().catch(fail);
