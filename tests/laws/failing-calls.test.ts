import { failingCallsSuite } from "./failing-calls.suite.js";

failingCallsSuite((call) => ["rename", "fdatasync", "write"].includes(call));
