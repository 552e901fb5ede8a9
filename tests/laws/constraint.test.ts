import { constraintSuite } from "./constraint.suite.js";

constraintSuite({ numSchemas: 20, numExplosive: 1 });
