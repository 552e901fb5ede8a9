import { registerStarvationTests } from "./starvation.suite.js";

registerStarvationTests({ bodyBytes: 1_000_000, numRequests: 8 });
