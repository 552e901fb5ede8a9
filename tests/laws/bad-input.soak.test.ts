import { badInputSuite } from "./bad-input.suite.js";

badInputSuite(50);
