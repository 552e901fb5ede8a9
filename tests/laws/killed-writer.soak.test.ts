import { killedWriterSuite } from "./killed-writer.suite.js";

killedWriterSuite({ numKills: 500, maxMs: 1500 });
