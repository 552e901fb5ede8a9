import { killsSuite } from "./kills.suite.js";

killsSuite(20);
