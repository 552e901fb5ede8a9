import { trafficSuite } from "./traffic.suite.js";

trafficSuite({ numClients: 8, durationMs: 8_000, growthBytes: 64 * 1024 * 1024 });
