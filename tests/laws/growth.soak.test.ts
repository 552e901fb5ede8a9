import { growthSuite } from "./growth.suite.js";

growthSuite({ numRequests: 1000, numTurns: 10_000, numFrames: 10_000, marginBytes: 60e6 });
