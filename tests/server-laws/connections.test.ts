import { connectionsSuite } from "./connections.suite.js";

connectionsSuite(70);
