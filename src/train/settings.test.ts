import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";
import { readSettings } from "./settings.js";

const python = fileURLToPath(new URL("../../python", import.meta.url));
/** python/tests/test_settings.py has the same. */
const cases: {
  readonly smallest: object;
  readonly wrong: readonly { readonly set: readonly string[]; readonly says: string }[];
} = JSON.parse(readFileSync(join(python, "tests", "wrong_settings.json"), "utf8"));

const folder = mkdtempSync(join(tmpdir(), "settings-"));
const path = join(folder, "a.json");
writeFileSync(path, JSON.stringify(cases.smallest));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What is said of overrides after the file's name; undefined where they are taken. */
async function said(...overrides: readonly string[]): Promise<string | undefined> {
  try {
    await readSettings(path, overrides, python);
    return undefined;
  } catch (error) {
    return (error as Error).message.replace(`Cannot use ${JSON.stringify(path)}: `, "");
  }
}

test.each(cases.wrong)("readSettings(): $set is refused as the trainer refuses it", async ({ set, says }) => {
  const message = await said(...set);
  expect(message?.startsWith(says), message).toBe(true);
  expect(message).not.toContain("\n");
});

test("readSettings(): says what the value is and what is wanted, as the schema has it", async () => {
  expect(await said("training.rows_per_step=0")).toBe('"training.rows_per_step" is 0, wanted 1 or more');
  expect(await said("optimizer.learning_rate=fast")).toBe('"optimizer.learning_rate" is "fast", wanted a number');
  expect(await said("optimizer.betas=[0.9,2]")).toBe('"optimizer.betas.1" is 2, wanted up to 1');
  expect(await said("training.seed=4294967296")).toBe('"training.seed" is 4294967296, wanted less than 4294967296');
  expect(await said("training.steps=ten")).toBe('"training.steps" is "ten", wanted a number or null');
  expect(await said('data.modes=["x"]')).toBe('"data.modes.0" is "x", wanted "block" or "full"');
  expect(await said('lora={"target_modules":[3]}')).toBe('"lora.target_modules.0" is 3, wanted text');
  expect(await said("data=null")).toBe('"data" is null, wanted an object');
});

test("readSettings(): puts values over the file's, sections that it lacks too, and fills in the schema's defaults", async () => {
  const settings = await readSettings(path, ["lora.rank=4", "run_name=b=c", "training.steps=7"], python).catch(
    (error: unknown) => (error as Error).message,
  );
  expect(settings).toContain('"run_name" is "b=c", wanted text that fits /^[A-Za-z0-9]');
  const { lora, training, data } = await readSettings(path, ["lora.rank=4", "training.steps=7"], python);
  expect({ lora, training, data }).toMatchObject({
    lora: { rank: 4, quantize: "none" },
    training: { steps: 7, epochs: null, seed: 42 },
    data: { max_tokens: 4096, modes: ["block", "full"] },
  });
});

test("readSettings(): says which --set and which file cannot be read", async () => {
  expect(await said("training")).toBe('Cannot use "--set training": wanted section.key=value');
  expect(await said("a..b=1")).toBe('Cannot use "--set a..b=1": wanted section.key=value');
  expect(await said("run_name.x=1")).toBe('Cannot use "--set run_name.x=1": "run_name" is no section');
  expect(await said("__proto__.x=1")).toBe('there is no setting "__proto__"');
  const none = join(folder, "none.json");
  await expect(readSettings(none, [], python)).rejects.toThrow(`Cannot read ${JSON.stringify(none)}: no such file`);
  writeFileSync(none, "[1]");
  await expect(readSettings(none, [], python)).rejects.toThrow("it is no JSON object");
  writeFileSync(none, "{");
  await expect(readSettings(none, [], python)).rejects.toThrow("it is no JSON");
});

test("readSettings(): takes every configuration that comes with the trainer", async () => {
  for (const name of ["block_ft", "block_llama3", "rag", "sft"]) {
    await expect(readSettings(join(python, "configs", `${name}.json`), [], python)).resolves.toBeTypeOf("object");
  }
});
