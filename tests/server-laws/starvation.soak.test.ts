import { registerStarvationTests } from "./starvation.suite.js";

registerStarvationTests({ bodyBytes: 4_000_000, numRequests: 20, numAtOnce: 352 });
