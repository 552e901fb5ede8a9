import { onePassSuite } from "./one-pass.suite.js";

onePassSuite({ manyBlocks: 300, longTokens: 1490, numRuns: 100, everyCaseUpTo: 500 });
