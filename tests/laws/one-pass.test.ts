import { onePassSuite } from "./one-pass.suite.js";

onePassSuite({ manyBlocks: 60, longTokens: 300, numRuns: 5, everyCaseUpTo: 0 });
