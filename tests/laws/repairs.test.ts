import { repairsSuite } from "./repairs.suite.js";

repairsSuite({ blockTokens: [13, 1, 21] });
