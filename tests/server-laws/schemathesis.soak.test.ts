import { schemathesisSuite } from "./schemathesis.suite.js";

schemathesisSuite({
  numExamples: 200,
  phases: ["examples", "coverage", "fuzzing", "stateful"],
  limitMs: 3_000_000,
});
