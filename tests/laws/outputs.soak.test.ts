import { outputsSuite } from "./outputs.suite.js";

outputsSuite({ numDisturbed: Infinity, numKills: 8 });
