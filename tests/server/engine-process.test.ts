import { engineProcessSuite } from "./engine-process.suite.js";

engineProcessSuite(1);
