import { connectionsSuite } from "./connections.suite.js";

connectionsSuite({ numClients: 70 });
