import { growthSuite } from "./growth.suite.js";

growthSuite({ numRequests: 60, marginBytes: 100e6 });
