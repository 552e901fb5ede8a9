import { quote } from "../files/quote.js";
import { compileOniguruma, splitAt } from "./pattern.js";
import type { SplitStep } from "./pre-tokenizer.js";

/** What a name of `tokenizer.ggml.pre` means. */
export interface GgmlPreTokenizer {
  readonly steps: readonly SplitStep[];
  /** A word that is a token as it stands needs no merges. */
  readonly ignoresMerges: boolean;
  /** Where the file has no `tokenizer.ggml.add_bos_token`. */
  readonly addsBos: boolean;
  /** Where the file has no `tokenizer.ggml.bos_token_id`. */
  readonly bosTokenId: number | undefined;
}

/**
 * The pre-tokenizer of a byte-level BPE vocabulary in GGUF: expressions run one after the other, each cutting what the
 * one before left, matches and what lies between them alike.
 *
 * @param name the value of `tokenizer.ggml.pre`.
 * @throws Error for a name that is not known: a guess would give wrong ids without a sign.
 * @see llama.cpp, src/llama-vocab.cpp, llm_tokenizer_bpe and llama_vocab::impl::load
 */
export function ggmlPreTokenizer(name: string): GgmlPreTokenizer {
  const family = families.find(({ names }) => names.includes(name));
  if (family === undefined) {
    throw new Error(
      `Cannot read the tokenizer: the pre-tokenizer ${quote(name)} is not supported (tokenizer.ggml.pre)`,
    );
  }
  const steps = family.expressions.map((source): SplitStep => {
    const expression = compileOniguruma(source, (reason) => {
      throw new Error(`Cannot read the tokenizer: ${reason}`);
    });
    return (text) => splitAt(text, expression, "isolated", false);
  });
  return {
    steps,
    ignoresMerges: ignoringMerges.includes(name),
    addsBos: addingBos.includes(name),
    bosTokenId: withoutBos.includes(name) ? undefined : 11,
  };
}

interface Family {
  readonly names: readonly string[];
  readonly expressions: readonly string[];
}

/** GPT-2's words; white space that no alternative takes is left between the matches. */
const gpt2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)";

const contractions = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
const lineEnds = "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/** The family of cl100k: words with one sign before them, digits in groups of up to `digits`, signs with the line ends after them. */
function modernWords(digits: string, letters = "\\p{L}", signs = "[^\\s\\p{L}\\p{N}]"): string {
  return `${contractions}|[^\\r\\n\\p{L}\\p{N}]?${letters}+|${digits}| ?${signs}+[\\r\\n]*|${lineEnds}`;
}

/** Letters cut by case, a capital before small ones; letters outside ASCII count as either case, as in llama.cpp. */
const casedWords = (suffix: string) => {
  const upper = "(?:(?=\\p{L})[^a-z])";
  const lower = "(?:(?=\\p{L})[^A-Z])";
  return `[^\\r\\n\\p{L}\\p{N}]?${upper}*${lower}+${suffix}|[^\\r\\n\\p{L}\\p{N}]?${upper}+${lower}*${suffix}`;
};

const deepSeek3Words =
  "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*";

/** The letters with case of Unicode 13 or so, but for Armenian's small and Georgian's old ones: DeepSeek LLM's own list. */
const deepSeekLetters =
  "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃";

const digitGroups = "\\p{N}{1,3}";

const families: readonly Family[] = [
  {
    names: [
      "llama3",
      "llama-v3",
      "llama-bpe",
      "falcon3",
      "falcon-h1",
      "pixtral",
      "midm-2.0",
      "lfm2",
      "jina-v5-nano",
      "dbrx",
      "smaug-bpe",
      "chatglm-bpe",
      "glm4",
      "glm5",
    ],
    expressions: [modernWords(digitGroups)],
  },
  {
    names: ["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"],
    expressions: [modernWords("\\p{N}")],
  },
  {
    names: ["qwen35"],
    expressions: [modernWords("\\p{N}", "[\\p{L}\\p{M}]", "[^\\s\\p{L}\\p{M}\\p{N}]")],
  },
  { names: ["minicpm5"], expressions: [digitGroups, modernWords("\\p{N}+")] },
  {
    names: [
      "gpt-2",
      "phi-2",
      "jina-es",
      "jina-de",
      "gigachat",
      "jina-v2-es",
      "jina-v2-de",
      "a.x-4.0",
      "mellum",
      "modern-bert",
      "mpt",
      "olmo",
      "jais",
      "trillion",
      "granite-docling",
      "exaone4",
    ],
    expressions: [gpt2],
  },
  {
    names: ["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"],
    expressions: ["\\p{N}", gpt2],
  },
  {
    names: ["tekken"],
    expressions: [`${casedWords("")}|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|${lineEnds}`],
  },
  {
    names: ["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
    expressions: [`${casedWords(`${contractions}?`)}|${digitGroups}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|${lineEnds}`],
  },
  {
    names: ["deepseek-llm"],
    // (?<!\s): without it, a long run of white space inside the text would be tried from each of its characters.
    expressions: [
      "[\\r\\n]",
      `\\s?[${deepSeekLetters}]+`,
      "\\s?[!-/:-~！-／：-～‘-‟　-。]+",
      "(?<!\\s)\\s+$",
      "[一-龥ࠀ-一가-퟿]+",
      "\\p{N}+",
    ],
  },
  {
    names: ["deepseek-coder"],
    expressions: ["[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[一-龥ࠀ-一가-퟿]+", "\\p{N}"],
  },
  {
    names: ["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
    expressions: [digitGroups, "[一-龥぀-ゟ゠-ヿ]+", `${deepSeek3Words}|${lineEnds}`],
  },
  {
    names: ["falcon"],
    expressions: ["[\\p{P}$+<=>^~|`]+", gpt2, "[0-9][0-9][0-9]"],
  },
  {
    names: ["default"],
    expressions: ["[\\p{P}$+<=>^~|]+", gpt2, "\\p{N}+", "[0-9][0-9][0-9]"],
  },
  { names: ["poro-chat", "bloom", "gpt3-finnish"], expressions: [" ?[^(\\s|.,!?…。，、।۔،)]+"] },
  { names: ["viking"], expressions: [" ?[^(\\s|.,!?…。，、।۔،)]+", "\\p{N}"] },
  {
    names: ["bailingmoe", "bailingmoe2", "llada-moe"],
    expressions: [
      "'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+",
    ],
  },
  {
    names: ["seed-coder"],
    expressions: [`${contractions}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|${lineEnds}`],
  },
];

const ignoringMerges: readonly string[] = [
  "llama3",
  "llama-v3",
  "llama-bpe",
  "falcon3",
  "falcon-h1",
  "pixtral",
  "midm-2.0",
  "lfm2",
  "jina-v5-nano",
  "glm4",
  "glm5",
  "tekken",
  "minicpm5",
];

const addingBos: readonly string[] = [
  "llama3",
  "llama-v3",
  "llama-bpe",
  "falcon3",
  "falcon-h1",
  "pixtral",
  "midm-2.0",
  "lfm2",
  "jina-v5-nano",
  "tekken",
];

const withoutBos: readonly string[] = ["chatglm-bpe", "glm4", "glm5"];
