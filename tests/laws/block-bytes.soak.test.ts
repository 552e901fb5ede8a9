import { blockBytesSuite } from "./block-bytes.suite.js";

blockBytesSuite({ numBlocks: 40, numShuffles: 8, kvTypes: ["f16", "f32", "bf16"], threads: [1, 2, 3] });
