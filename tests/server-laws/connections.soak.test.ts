import { connectionsSuite } from "./connections.suite.js";

connectionsSuite({ numClients: 400, numIdle: 1_500 });
