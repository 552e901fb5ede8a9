import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";

test("check-gpu: every stage that the time does not hold is named in the report", ({ skip }) => {
  if (process.platform !== "linux") skip("it is for Linux");
  const folder = mkdtempSync(join(tmpdir(), "block-attention-gpu-"));
  const args = ["run", "--device", "CPU", "--minutes", "0", "--lengths", "50,8192", "--out", folder];
  const { status, stderr } = spawnSync(process.execPath, ["scripts/check-gpu.mjs", ...args], { encoding: "utf8" });
  expect([status, stderr]).toEqual([1, ""]);
  const names = ["devices of cpu", "random weights", "TTFT of 50", "TTFT of 8192"];
  names.push("llama.cpp at 50", "llama.cpp at 8192", "decoding", "laws");
  const { stages } = JSON.parse(readFileSync(join(folder, "report.json"), "utf8"));
  expect(stages.map(({ name, state }: { name: string; state: string }) => [name, state])).toEqual(
    names.map((name) => [name, "skipped"]),
  );
  const report = readFileSync(join(folder, "report.md"), "utf8");
  for (const name of names) expect(report).toContain(`| ${name} | skipped |`);
  rmSync(folder, { recursive: true });
});
