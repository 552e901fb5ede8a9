import { signalsSuite } from "./signals.suite.js";

signalsSuite(20);
