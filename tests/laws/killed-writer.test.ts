import { vi } from "vitest";
import { killedWriterSuite } from "./killed-writer.suite.js";

vi.setConfig({ testTimeout: 180_000 });
killedWriterSuite({ numKills: 8, maxMs: 900 });
