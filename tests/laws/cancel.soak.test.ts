import { cancelSuite } from "./cancel.suite.js";

cancelSuite(10);
