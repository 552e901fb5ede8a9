import { realModels } from "./real-models.js";
import { realModelSuite } from "./real-models.suite.js";

for (const { file } of realModels) {
  realModelSuite(file, { numPrompts: 20, textTokens: 4000, numPassages: [2, 10, 30], numMutations: 300 });
}
