import { repairsSuite } from "./repairs.suite.js";

repairsSuite({ blockTokens: [130, 1, 64, 300, 17, 90] });
