import { killedWriterSuite } from "./killed-writer.suite.js";

killedWriterSuite({ numKills: 8, maxMs: 900 });
