import { trafficSuite } from "./traffic.suite.js";

trafficSuite({ numClients: 64, durationMs: 300_000, growthBytes: 16 * 1024 * 1024 });
