import { defineConfig } from "vitest/config";
import shared from "./vitest.config.js";

// Full sizes of the laws: minutes to an hour. `npm run soak`.
export default defineConfig({
  oxc: { target: "es2022" },
  test: {
    include: ["tests/**/*.soak.test.ts"],
    testTimeout: 3_600_000,
    hookTimeout: 600_000,
    maxWorkers: 1,
    pool: "forks",
    env: { ...shared.test?.env },
    reporters: ["verbose"],
    expect: { requireAssertions: true },
  },
});
