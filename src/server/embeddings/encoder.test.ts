import { expect, test } from "vitest";
import { type Embedded, loadEncoder, type Runtime } from "./encoder.js";
import { encoderFolder } from "./encoder-folder.suite.js";

/** A model whose token i has the vector [i, 1], or [0, 9] where the mask says that it is none. */
function fakeRuntime(inputNames = ["input_ids", "attention_mask", "token_type_ids"]) {
  const batches: number[][] = [];
  class Tensor {
    constructor(
      readonly type: string,
      readonly data: BigInt64Array,
      readonly dims: readonly number[],
    ) {}
  }
  const run = async (feeds: Readonly<Record<string, object>>) => {
    const { input_ids: ids, attention_mask: mask } = feeds as Record<string, Tensor>;
    batches.push([...ids!.dims]);
    const data = new Float32Array([...ids!.data].flatMap((id, i) => (mask!.data[i] === 1n ? [Number(id), 1] : [0, 9])));
    return { last_hidden_state: { data, dims: [...ids!.dims, 2] } };
  };
  const runtime: Runtime = { InferenceSession: { create: async () => ({ inputNames, run }) }, Tensor };
  return { runtime, batches };
}

const unit = (x: number, y: number) => [x / Math.hypot(x, y), y / Math.hypot(x, y)];
const vectorsOf = (made: unknown) => (made as Embedded).vectors.map((vector) => [...vector]);

test("loadEncoder(): vectors are the tokens' mean, or the first one's, of length 1, padding left out, in the texts' order", async () => {
  // Ids: [CLS] 2, a 4, b 5, ##b 7, [SEP] 3.
  const texts = ["ab B", "A", "a b a b"];
  const { runtime, batches } = fakeRuntime();
  const mean = await loadEncoder(await encoderFolder(), runtime, 1);
  const made = await mean.embed(texts);
  expect(made).toMatchObject({ numTokens: 5 + 3 + 6 });
  const expected = [unit((2 + 4 + 7 + 5 + 3) / 5, 1), unit((2 + 4 + 3) / 3, 1), unit((2 + 4 + 5 + 4 + 5 + 3) / 6, 1)];
  for (const [i, vector] of vectorsOf(made).entries())
    for (const [k, value] of vector.entries()) expect(value).toBeCloseTo(expected[i]![k]!, 6);
  expect(batches).toEqual([[3, 6]]);
  const pooling = { pooling_mode_cls_token: true, pooling_mode_mean_tokens: false };
  const first = await loadEncoder(await encoderFolder({ "1_Pooling/config.json": pooling }), runtime, 1);
  for (const vector of vectorsOf(await first.embed(texts)))
    for (const [k, value] of vector.entries()) expect(value).toBeCloseTo(unit(2, 1)[k]!, 6);
});

test("loadEncoder(): batches are bounded, and long texts are refused, not cut", async () => {
  const { runtime, batches } = fakeRuntime(["input_ids", "attention_mask"]);
  const encoder = await loadEncoder(
    await encoderFolder({ "config.json": { max_position_embeddings: 2000 } }),
    runtime,
    1,
  );
  const texts = [1500, 1, 1500, 1, 1500, 1].map((length) => "a ".repeat(length));
  expect(vectorsOf(await encoder.embed(texts))).toHaveLength(6);
  expect(batches).toEqual([
    [3, 3],
    [2, 1502],
    [1, 1502],
  ]);
  const small = await loadEncoder(
    await encoderFolder({ "sentence_bert_config.json": { max_seq_length: 5 } }),
    runtime,
    1,
  );
  expect(await small.embed(["a", "a b c"])).toMatchObject({ numTokens: 8 });
  expect(await small.embed(["a", "a b c a"])).toEqual({
    index: 1,
    error: "it has 6 tokens, the embedding model takes up to 5",
  });
  expect(await small.embed([" ".repeat(1000)])).toMatchObject({
    index: 0,
    error: expect.stringContaining("1000 characters"),
  });
});

test("loadEncoder(): a folder that cannot be used is refused in one line that says what is wanted", async () => {
  const { runtime } = fakeRuntime();
  const refused = async (changes: Readonly<Record<string, unknown>>, with_ = runtime) =>
    await loadEncoder(await encoderFolder(changes), with_, 1).catch((error: Error) => error.message);
  expect(await refused({ "tokenizer.json": undefined })).toContain("it has no tokenizer.json");
  expect(await refused({ "tokenizer.json": "[]" })).toContain("it is no JSON object");
  expect(await refused({ "model.onnx": undefined })).toContain("it has no model.onnx");
  expect(await refused({ "config.json": undefined })).toContain("it has no config.json with max_position_embeddings");
  expect(await refused({ "1_Pooling/config.json": undefined })).toContain("has no pooling_mode that is true, wanted");
  const both = { pooling_mode_cls_token: true, pooling_mode_max_tokens: true };
  expect(await refused({ "1_Pooling/config.json": both })).toContain(
    "pooling_mode_cls_token and pooling_mode_max_tokens",
  );
  expect(await refused({}, fakeRuntime(["pixel_values"]).runtime)).toContain('it has the input "pixel_values"');
});
