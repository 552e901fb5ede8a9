import { fairnessSuite } from "./fairness.suite.js";

fairnessSuite({ numSteps: 10_000, numRowGraphs: 2000, width: 64, numLines: 200 });
