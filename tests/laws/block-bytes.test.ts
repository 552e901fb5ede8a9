import { blockBytesSuite } from "./block-bytes.suite.js";

blockBytesSuite({ numBlocks: 13, numShuffles: 2, kvTypes: ["f16"], threads: [1] });
