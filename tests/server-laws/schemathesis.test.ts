import { schemathesisSuite } from "./schemathesis.suite.js";

schemathesisSuite({ numExamples: 3, phases: ["examples", "coverage", "fuzzing"], limitMs: 60_000 });
