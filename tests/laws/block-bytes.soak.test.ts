import { blockBytesSuite } from "./block-bytes.suite.js";

blockBytesSuite({ numBlocks: 30, numShuffles: 3, kvTypes: ["f16", "f32", "bf16"], threads: [1, 2] });
