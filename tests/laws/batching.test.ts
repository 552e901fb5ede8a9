import { batchingSuite } from "./batching.suite.js";

batchingSuite({ numRequests: 40, numAtOnce: 24, longTokens: 300 });
