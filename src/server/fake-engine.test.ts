import { engineSuite } from "../engine/engine.suite.js";
import { FakeEngine } from "./fake-engine.suite.js";
import { MeteredEngine } from "./metered-engine.js";
import { Metrics } from "./metrics.js";

// What the server's tests stand on behaves as the engines that it stands for.
engineSuite("FakeEngine", async () => new FakeEngine({ tokenMs: 0 }));

engineSuite("MeteredEngine", async () => {
  const engine = new FakeEngine({ tokenMs: 0 });
  return new MeteredEngine(engine, new Metrics({ engine, version: "0", processBytes: () => 0 }), () => undefined);
});
