import { defineConfig } from "vitest/config";

// Short sizes: what `npm test` runs. `using` is no Node 20 syntax, so the transform lowers it.
export default defineConfig({
  oxc: { target: "es2022" },
  test: {
    include: ["src/**/*.test.ts", "tests/**/*.test.ts"],
    exclude: ["tests/**/*.soak.test.ts", "node_modules/**", "dist/**"],
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // A second, the default, is short on a busy machine; what is there at once does not wait.
    expect: { poll: { timeout: 15_000 } },
    // Native compute wants the cores: files run in turn, two at a time.
    maxWorkers: 2,
    pool: "forks",
  },
});
