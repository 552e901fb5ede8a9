import { fairnessSuite } from "./fairness.suite.js";

fairnessSuite({ numSteps: 1000, numRowGraphs: 200, width: 8, numLines: 10 });
