// Makes tests/fixtures/oracle anew: `node scripts/oracle-fixtures.mjs`, about a minute; with names behind it, only these models'.
// Needs a Python with python/requirements.txt installed; the variable PYTHON names it, default python3.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { createViteServer } from "vitest/node";

const root = fileURLToPath(new URL("..", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "block-attention-oracle-"));
// Vite, which vitest brings along, runs the TypeScript that writes the models.
const vite = await createViteServer({
  root,
  configFile: false,
  appType: "custom",
  logLevel: "error",
  server: { middlewareMode: true, ws: false },
});
try {
  const { writeOracleCases, writeOracleFixture } = await vite.ssrLoadModule("/tests/oracles/oracle-fixtures.ts");
  for (const name of writeOracleCases(folder, process.argv.slice(2))) {
    const model = join(folder, name);
    const { status } = spawnSync(
      process.env.PYTHON ?? "python3",
      [
        join(root, "python/oracles/block_attention_oracle.py"),
        "--model",
        model,
        "--cases",
        join(model, "cases.json"),
        "--out",
        join(model, "results.json"),
      ],
      { stdio: "inherit" },
    );
    if (status !== 0) throw new Error(`Cannot score with the oracle: Python ended with ${status} for "${name}"`);
    writeOracleFixture(name, folder);
    console.log(`tests/fixtures/oracle/${name}.json`);
  }
} finally {
  await vite.close();
  rmSync(folder, { recursive: true, force: true });
}
