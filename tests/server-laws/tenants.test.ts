import { tenantsSuite } from "./tenants.suite.js";

tenantsSuite({ numRequests: 5 });
