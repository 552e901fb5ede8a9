import { tenantsSuite } from "./tenants.suite.js";

// Over 200: with 400 of each, chance alone exceeds the bound once in seventy runs.
tenantsSuite({ numRequests: 400, maxArea: 0.55 });
