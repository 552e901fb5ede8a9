import { describe } from "vitest";
import { growthSuite } from "./growth.suite.js";
import { reuseSuite } from "./reuse.suite.js";
import { stressSuite } from "./stress.suite.js";

describe("blocks that leave the device rest in the machine's memory", () => {
  reuseSuite({ numRequests: 12, numOrders: 1, numFresh: 2 }, { hostStoreBytes: 1 << 24 });
  // Little room there as well.
  growthSuite({ numRequests: 120, numTurns: 300, numFrames: 150 }, { hostStoreBytes: 1 << 16 });
  stressSuite({ numRounds: 6, requestsPerRound: 24 }, { hostStoreBytes: 1 << 20 });
});
