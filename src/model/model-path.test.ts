import { mkdir, rm, stat, truncate, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { expect, test, vi } from "vitest";
import { randomAdapter, writePeftAdapter } from "../../tests/models/random-adapter.js";
import { writeRandomGguf } from "../../tests/models/random-gguf.js";
import { chosenModel, defaultModel, embeddedModelPath, loadTokenizer } from "../engine/model.js";
import { type JsonObject, readJson } from "../files/bounded-json.js";
import { undefinedIfMissing } from "../files/regular-file.js";
import { expectError, temporaryFolder } from "../files/test-files.suite.js";
import { parseBlockAttentionConfig } from "./block-attention-config.js";
import { findModel } from "./model-path.js";
import { openModel, readBlockAttention } from "./open-model.js";
import { packagedDir, packagedPath, smolLM2 } from "./packaged-models.js";

const kindOf = (path: string) => findModel(path, "config.json");

test.each([
  ["Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"],
  ["hf:Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"],
  ["hf://Qwen/Qwen2.5-0.5B@v1.0", "Qwen/Qwen2.5-0.5B@v1.0"],
  ["https://huggingface.co/Qwen/Qwen2.5-0.5B/tree/main", "Qwen/Qwen2.5-0.5B"],
  ["hf.co/o/n-GGUF:Q4_K_M", "o/n-GGUF:Q4_K_M"],
  ["https://huggingface.co/o/n/resolve/v2/q/n.Q8_0.gguf?download=true", "o/n@v2:q/n.Q8_0.gguf"],
])("findModel(): %s is no path, and the error says how it gets onto the disk", async (path, name) => {
  for (const open of [kindOf, openModel, loadTokenizer]) {
    expect(await expectError(open(path), "models are read from disk")).toMatch(/no such file or folder/);
    expect((await expectError(open(path))).endsWith(`: block-attention pull ${name}`)).toBe(true);
  }
});

test.each([
  ["https://example.com/model.gguf", /: no such file or folder; models are read from disk, download it first$/],
  ["./runs/mine", /: no such file or folder$/],
  ["runs/mine/export", /: no such file or folder$/],
  ["models/mine.gguf", /: no such file or folder$/],
  ["owner/na me; rm -rf x", /: no such file or folder$/],
  ["hf:owner/name$(x)", /download it first$/],
])("findModel(): %s gets no command", async (path, message) => {
  expect(await expectError(kindOf(path))).toMatch(message);
});

test("findModel(): what was meant is named where the path is near it", async () => {
  const folder = await temporaryFolder();
  const at = (name: string) => join(folder, name);
  const meant = async (path: string, ...names: readonly string[]) => {
    const message = await expectError(kindOf(at(path)));
    expect(message).toMatch(/; did you mean (one of )?"[^?]*\?$/);
    expect(
      [...message.slice(message.indexOf("did you mean")).matchAll(/"(?:[^"\\]|\\.)*"/g)].map(([text]) =>
        JSON.parse(text),
      ),
    ).toEqual(names.map(at));
  };
  for (const name of ["base/config.json", "base/model.safetensors", "one/m.gguf", "cache/snapshots/0f/config.json"]) {
    await mkdir(join(at(name), ".."), { recursive: true });
    await writeFile(at(name), "{}");
  }
  const found = async (path: string, kind: string, model = path) =>
    expect(await kindOf(at(path))).toEqual({ kind, path: at(model) });
  await found("base", "hugging-face");
  await found("one/m.gguf", "gguf");
  await found("one", "gguf", "one/m.gguf");
  await meant("bsae", "base");
  await meant("base/config.json", "base");
  await meant("base/model.safetensors", "base");
  await meant("cache", "cache/snapshots/0f");
  await meant(".", "base");
  // A split file is one; projectors and importance matrices are none.
  for (const name of ["mmproj-m-f16.gguf", "m.imatrix.gguf"]) await writeFile(at(`one/${name}`), "");
  await found("one", "gguf", "one/m.gguf");
  await mkdir(at("split"));
  for (const i of [3, 1, 2]) await writeFile(at(`split/m-0000${i}-of-00003.gguf`), "");
  await found("split", "gguf", "split/m-00001-of-00003.gguf");
  await found("split/m-00002-of-00003.gguf", "gguf");
  await writeFile(at("split/a.gguf"), "");
  await meant("split", "split/a.gguf", "split/m-00001-of-00003.gguf");
  await writeFile(at("one/n.gguf"), "");
  await meant("one", "one/m.gguf", "one/n.gguf");
  // A config beside GGUF files alone, as conversions have it.
  await writeFile(at("one/config.json"), "{}");
  await meant("one", "one/m.gguf", "one/n.gguf");
  await rm(at("one/n.gguf"));
  await found("one", "gguf", "one/m.gguf");
  await writeFile(at("base/m.gguf"), "");
  await found("base", "hugging-face");
  // Nothing to name: what is missing is said as before.
  await mkdir(at("empty"));
  await expectError(openModel(at("empty")), /config\.json": no such file or folder$/);
});

test("loadTokenizer(): a file of any name is read as GGUF, as the model is", async () => {
  const path = join(await temporaryFolder(), "sha256-0f");
  await writeFile(path, "none");
  for (const open of [openModel, loadTokenizer]) expect(await expectError(open(path))).toContain("GGUF");
});

test("openModel(): an adapter's folder stands for its base too, where `pull` has fetched that by a name of its own", async () => {
  const cache = await temporaryFolder();
  for (const name of ["XDG_CACHE_HOME", "LOCALAPPDATA"]) vi.stubEnv(name, cache);
  try {
    const base = packagedPath(packagedDir(process.env), smolLM2);
    await mkdir(dirname(base), { recursive: true });
    writeRandomGguf(base, { architecture: "llama", tied: true });
    const blockAttention = { version: 1, prefix: "[A]", modes: ["block", "full"] };
    const random = await randomAdapter(base, { seed: 3 });
    const adapter = join(cache, "adapter");
    const over = (origin: string) => {
      const config = { base_model_name_or_path: origin, block_attention: blockAttention };
      writePeftAdapter(adapter, random, config);
    };
    over(smolLM2.origin);
    expect(await expectError(openModel(adapter), /has \d+ bytes, wanted 98362432; it is fetched with/)).toMatch(
      /: block-attention pull smollm2-135m$/,
    );
    // Numbers behind the tensors are nobody's.
    await truncate(base, smolLM2.numBytes);
    const opened = await openModel(adapter);
    expect(opened).toEqual(await openModel(base, { adapters: [{ path: adapter }] }));
    expect(opened.config.blockAttention).toMatchObject(blockAttention);
    expect(await readBlockAttention(adapter)).toMatchObject(blockAttention);
    expect((await loadTokenizer(adapter)).digest).toBe((await loadTokenizer(base)).digest);
    const { path, reason, missing } = defaultModel();
    expect(path).toMatch(/smollm2-rag$/);
    expect([reason, missing]).toEqual(["its base smollm2-135m is on the disk", undefined]);

    over("o/other");
    await expectError(openModel(adapter), /: it is an adapter, which is given beside its model: --adapter$/);
    await rm(base);
    over(smolLM2.origin);
    await expectError(
      openModel(adapter),
      / is not on the disk; it is fetched with: block-attention pull smollm2-135m$/,
    );
    expect(defaultModel()).toEqual({
      path: embeddedModelPath(),
      reason: "smollm2-135m is not on the disk: block-attention pull smollm2-135m",
      missing: "smollm2-135m",
    });
  } finally {
    vi.unstubAllEnvs();
  }
});

test("chosenModel(): adapters that no model is named for are refused", () => {
  expect(chosenModel({})).toBe(defaultModel().path);
  expect(chosenModel({ model: "mine", adapters: [{ path: "a" }] })).toBe("mine");
  expect(() => chosenModel({ adapters: [{ path: "a" }] })).toThrow(
    "Cannot load the adapter: no model is named, wanted the one that it was trained over (--model)",
  );
});

test("smollm2-rag: an adapter over smollm2-135m for both modes, of at most 24 MB", async () => {
  const folder = join(dirname(embeddedModelPath()), "smollm2-rag");
  const { base_model_name_or_path: origin, block_attention: own } = (await readJson(
    join(folder, "adapter_config.json"),
  )) as JsonObject;
  expect(origin).toBe(smolLM2.origin);
  expect(parseBlockAttentionConfig(own, "it")?.modes).toEqual(["block", "full"]);
  const weights = await stat(join(folder, "adapter_model.safetensors")).catch(undefinedIfMissing);
  expect(weights?.size ?? 0).toBeLessThanOrEqual(24e6);
});
