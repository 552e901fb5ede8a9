import { stressSuite } from "./stress.suite.js";

stressSuite({ numRounds: 13, requestsPerRound: 24 });
