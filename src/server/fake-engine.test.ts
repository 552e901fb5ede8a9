import { engineSuite } from "../engine/engine.suite.js";
import { FakeEngine } from "./fake-engine.suite.js";

// What the server's tests stand on behaves as the engines that it stands for.
engineSuite("FakeEngine", async () => new FakeEngine({ tokenMs: 0 }));
