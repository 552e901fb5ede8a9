import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { HttpClient } from "./http-client.js";
import { expectCleanLog, expectSettled } from "./server-laws.js";
import { ServerUnderTest } from "./server-under-test.js";

export interface SchemathesisSize {
  /** Of each operation and phase. */
  readonly numExamples: number;
  readonly phases: readonly string[];
  readonly limitMs: number;
}

const key = "a-key-for-schemathesis-0123456789";

/** The program, or why there is none. `pip install -r tests/server-laws/requirements.txt` gives it. */
function findSchemathesis(): { readonly path: string } | { readonly missing: string } {
  const path = process.env.SCHEMATHESIS_PATH ?? "schemathesis";
  const { status, error, stdout } = spawnSync(path, ["--version"], { encoding: "utf8", timeout: 30_000 });
  if (status === 0) return { path };
  return { missing: `"${path} --version" failed: ${error?.message ?? stdout}` };
}

/** What GET /openapi.json promises holds for whatever it allows and whatever it forbids: no 500, no other answer. */
export function schemathesisSuite(size: SchemathesisSize): void {
  const found = findSchemathesis();
  const timeout = size.limitMs + 60_000;

  test("serve: answers are as /openapi.json says, by schemathesis", { timeout }, async (context) => {
    if ("missing" in found) {
      console.warn(`schemathesis is not there: ${found.missing}`);
      context.skip(`schemathesis is not there: ${found.missing}`);
      return;
    }
    await using server = await ServerUnderTest.start({
      args: ["--store-bytes", "8MiB", "--max-tokens", "64"],
      keys: [key],
    });
    const folder = mkdtempSync(join(tmpdir(), "block-attention-schemathesis-"));
    const args = [
      "run",
      `${server.url}/openapi.json`,
      `--header=Authorization: Bearer ${key}`,
      "--checks=all",
      // What a schema cannot say is refused with a 400: a prompt too long for the model, fields that do not go together.
      "--exclude-checks=positive_data_acceptance",
      "--mode=all",
      `--phases=${size.phases.join()}`,
      `--max-examples=${size.numExamples}`,
      "--seed=1",
      "--request-timeout=30",
      "--suppress-health-check=all",
      "--continue-on-failure",
      "--no-color",
    ];
    try {
      const { code, output } = await run(found.path, args, folder, size.limitMs);
      console.log(output.slice(-3000));
      expect(code, output.slice(-20_000)).toBe(0);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
    using client = new HttpClient(server, key);
    expect((await client.ask({ path: "/generate", body: { blocks: ["One"] } })).status).toBe(200);
    expect((await server.metrics(key)).value("block_attention_engine_restarts_total")).toBe(0);
    await expectSettled(server, key);
    expectCleanLog(server.stderr);
  });
}

function run(program: string, args: readonly string[], cwd: string, limitMs: number) {
  return new Promise<{ readonly code: number | null; readonly output: string }>((resolve, reject) => {
    // It keeps examples in its working folder.
    const child = spawn(program, args, {
      cwd,
      stdio: ["ignore", "pipe", "pipe"],
      timeout: limitMs,
      killSignal: "SIGKILL",
    });
    let output = "";
    const take = (text: string) => {
      output += text;
    };
    child.stdout.setEncoding("utf8").on("data", take);
    child.stderr.setEncoding("utf8").on("data", take);
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, output }));
  });
}
