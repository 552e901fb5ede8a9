import { mutatedFilesSuite } from "./mutated-files.suite.js";

mutatedFilesSuite(2000);
