import { batchingSuite } from "./batching.suite.js";

batchingSuite({ numRequests: 600, numAtOnce: 64, longTokens: 1500 });
