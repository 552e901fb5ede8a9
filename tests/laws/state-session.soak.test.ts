import { stateSessionSuite } from "./state-session.suite.js";

stateSessionSuite(400);
