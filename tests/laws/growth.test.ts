import { growthSuite } from "./growth.suite.js";

growthSuite({ numRequests: 120, numTurns: 300, numFrames: 150 });
