import { malformedSuite } from "./malformed.suite.js";

malformedSuite(10_000);
