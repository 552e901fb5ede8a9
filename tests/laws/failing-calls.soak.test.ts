import { failingCallsSuite } from "./failing-calls.suite.js";

failingCallsSuite(() => true);
