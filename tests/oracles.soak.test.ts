import { oraclesSuite } from "./oracles.suite.js";

oraclesSuite({ kinds: ["hugging-face", "gguf"], everyCase: true, threads: 2 });
