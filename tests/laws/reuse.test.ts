import { reuseSuite } from "./reuse.suite.js";

reuseSuite({ numRequests: 25, numOrders: 6, numFresh: 4 });
