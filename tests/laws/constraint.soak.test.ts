import { constraintSuite } from "./constraint.suite.js";

constraintSuite({ numSchemas: 1000, numExplosive: 200 });
