import { userEnv } from "./vitest.config.js";
import soak from "./vitest.soak.config.js";

// Real models, fetched on first use: minutes each. `npm run check:models`, or one of them: `npm run check:models -- -t SmolLM2`.
export default {
  ...soak,
  test: { ...soak.test, include: ["tests/real-models/*.test.ts"], env: { ...soak.test?.env, ...userEnv } },
};
