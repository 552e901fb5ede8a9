import { tenantsSuite } from "./tenants.suite.js";

// Over 200: with 500 of each, chance alone exceeds the bound once in a hundred and sixty runs.
tenantsSuite({ numRequests: 500, maxArea: 0.55 });
