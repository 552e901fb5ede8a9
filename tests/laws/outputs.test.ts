import { outputsSuite } from "./outputs.suite.js";

outputsSuite({ numDisturbed: 3, numKills: 1 });
