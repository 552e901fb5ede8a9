import { reuseSuite } from "./reuse.suite.js";

reuseSuite({ numRequests: 200, numOrders: 40, numFresh: 200 });
