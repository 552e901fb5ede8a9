import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { readGguf } from "../src/files/gguf.js";
import { preTokenizers } from "../src/tokenizer/ggml-pre-tokenizers.js";
import { tokenizerFromGguf } from "../src/tokenizer/gguf-tokenizer.js";
import { llamaCppTokenize, whyNoLlamaCpp } from "./llama-cpp/llama-cpp-oracle.js";
import { Random } from "./models/random.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-pre-tokenizers-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const vocabulary = "../shared/data/vocab/ggml-vocab-llama-bpe.gguf";
// Names that the installed llama.cpp may be too old for.
const newNames = ["glm5"];
const reason = existsSync(vocabulary) ? await whyNoLlamaCpp() : `${vocabulary} is missing`;

/** The vocabulary with another pre-tokenizer. Its file holds no tensors, so nothing behind the name must stay in place. */
function writeVocabulary(name: string): string {
  const bytes = readFileSync(vocabulary);
  const text = (value: string) => {
    const encoded = Buffer.alloc(8 + Buffer.byteLength(value));
    encoded.writeBigUInt64LE(BigInt(encoded.length - 8));
    encoded.write(value, 8);
    return encoded;
  };
  const [key, type] = [text("tokenizer.ggml.pre"), Buffer.of(8, 0, 0, 0)];
  const at = bytes.indexOf(Buffer.concat([key, type, text("llama-bpe")]));
  const end = at + key.length + type.length + text("llama-bpe").length;
  const path = join(folder, `${name}.gguf`);
  writeFileSync(path, Buffer.concat([bytes.subarray(0, at), key, type, text(name), bytes.subarray(end)]));
  return path;
}

/** Texts that cut differently from name to name: pieces of many kinds, in random order. */
function drawTexts(random: Random, count: number): string[] {
  const pieces = [
    ..." |  |   |\n|\n\n|\r\n|\t|'s|'LL|'t|don't|it's|HTTPServer|camelCase|snake_case|1|12|123|1234567|3.14|2,000|x/y|/\n|!!!|…|—|(a)|[0]|{}".split(
      "|",
    ),
    ..."://|$5|50%|Źródło|née|Ωμέγα|Привет|שלום|مرحبا|漢字|かな|カナ|한국어|ภาษา|हिन्दी|é|🙂|½|²|Ⅷ|٣٤|“q”|the|of| and| answer|Word|WORD|I|a".split(
      "|",
    ),
  ];
  return Array.from({ length: count }, () =>
    Array.from({ length: 1 + random.below(12) }, () => pieces[random.below(pieces.length)]).join(""),
  );
}

test.for(preTokenizers)("ggmlPreTokenizer(): %s cuts as llama.cpp does", async (name, { skip }) => {
  if (reason !== undefined) skip(reason);
  const path = writeVocabulary(name);
  const texts = drawTexts(new Random(1, name), 400);
  const tokenizer = tokenizerFromGguf((await readGguf(path)).metadata);
  // llama.cpp refuses names that came after it.
  const expected = await llamaCppTokenize(path, texts, false).catch((error: Error) => {
    if (newNames.includes(name)) skip(error.message);
    throw error;
  });
  rmSync(path);
  const wrong = texts.flatMap((text, i) => {
    const found = tokenizer.encode(text, "none");
    return String(found) === String(expected[i]) ? [] : [{ text, found: found.join(), expected: expected[i]?.join() }];
  });
  expect(wrong.slice(0, 3)).toEqual([]);
});
