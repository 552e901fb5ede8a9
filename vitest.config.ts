import { join } from "node:path";
import { defineConfig } from "vitest/config";
import { findGgmlDirectory, ggmlVariable } from "./src/ggml/library.js";
import { openVinoVariable } from "./src/ggml/openvino/library.js";

const cacheVariables = ["XDG_CACHE_HOME", "LOCALAPPDATA"];
const cacheFolder = join(import.meta.dirname, "node_modules", ".cache", "block-attention-tests");

/** Of tests that want what lies in the user's own cache: real models, compiled kernels. */
export const userEnv = Object.fromEntries(
  [...cacheVariables, "HF_HUB_OFFLINE"].map((name) => [name, process.env[name] ?? ""]),
);

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
    // The default model is the embedded one, whatever the user has fetched, and none is fetched: a cache of the tests' own.
    env: {
      [ggmlVariable]: process.env[ggmlVariable] || (await findGgmlDirectory("cpu")),
      // Products are ggml's, also where OpenVINO is installed, unless it is asked for.
      [openVinoVariable]: process.env[openVinoVariable] || "none",
      ...Object.fromEntries(cacheVariables.map((name) => [name, cacheFolder])),
      HF_HUB_OFFLINE: "1",
    },
    // Native compute wants the cores: files run in turn, two at a time.
    maxWorkers: 2,
    pool: "forks",
  },
});
