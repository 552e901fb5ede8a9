import { stressSuite } from "./stress.suite.js";

stressSuite({ numRounds: 400, requestsPerRound: 48, firstSeed: 1000 });
