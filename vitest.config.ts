import { defineConfig } from "vitest/config";
import { findGgmlDirectory, ggmlVariable } from "./src/ggml/library.js";

// Short sizes: what `npm test` runs. `using` is no Node 20 syntax, so the transform lowers it.
export default defineConfig({
  oxc: { target: "es2022" },
  test: {
    include: ["src/**/*.test.ts", "tests/**/*.test.ts"],
    exclude: ["tests/**/*.soak.test.ts", "tests/real-models/**", "node_modules/**", "dist/**"],
    testTimeout: 30_000,
    hookTimeout: 60_000,
    expect: {
      // A second, the default, is short on a busy machine; what is there at once does not wait.
      poll: { timeout: 15_000 },
      // A test that expects nothing cannot fail where its loop had nothing to go over.
      requireAssertions: true,
    },
    // A process uses one folder of ggml, also where a GPU package is installed, which engines would take.
    env: { [ggmlVariable]: process.env[ggmlVariable] || (await findGgmlDirectory("cpu")) },
    // Native compute wants the cores: files run in turn, two at a time.
    maxWorkers: 2,
    pool: "forks",
  },
});
