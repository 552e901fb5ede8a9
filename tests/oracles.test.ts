import { oraclesSuite } from "./oracles.suite.js";

// One thread: two would wait for each other at every node while other test files hold the cores.
oraclesSuite({ kinds: ["hugging-face"], everyCase: false, threads: 1 });
