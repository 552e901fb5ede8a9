import { realModels } from "./real-models.js";
import { realModelSuite } from "./real-models.suite.js";

// What CI has time for.
realModelSuite(realModels[0]!.file, { numPrompts: 10, textTokens: 1000, numPassages: [2, 10], numMutations: 20 });
