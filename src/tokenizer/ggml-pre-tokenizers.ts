import { quote } from "../files/quote.js";
import { compileOniguruma, type SplitStep, splitStep } from "./pattern.js";

/** What a name of `tokenizer.ggml.pre` means. */
export interface GgmlPreTokenizer {
  /** For Oniguruma, as tokenizer.json has them; `steps` run them. */
  readonly expressions: readonly string[];
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
    const { expression } = compileOniguruma(source, (reason) => {
      throw new Error(`Cannot read the tokenizer: ${reason}`);
    });
    // These are known: none of them needs a watch, however it looks.
    return splitStep({ expression, stopwatch: undefined }, "isolated", false);
  });
  return {
    expressions: family.expressions,
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
function modernWords(...words: Parameters<typeof modernStart>): string {
  return modernStart(...words) + lineEnds;
}

function modernStart(digits: string, letters = "\\p{L}", signs = "[^\\s\\p{L}\\p{N}]"): string {
  return `${contractions}|[^\\r\\n\\p{L}\\p{N}]?${letters}+|${digits}| ?${signs}+[\\r\\n]*|`;
}

/** Letters cut by case, a capital before small ones; letters outside ASCII count as either case, as in llama.cpp. */
const casedWords = (suffix: string) => {
  const upper = "(?:(?=\\p{L})[^a-z])";
  const lower = "(?:(?=\\p{L})[^A-Z])";
  return `[^\\r\\n\\p{L}\\p{N}]?${upper}*${lower}+${suffix}|[^\\r\\n\\p{L}\\p{N}]?${upper}+${lower}*${suffix}`;
};

const deepSeek3Words =
  "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+";
const deepSeek3Script = "[\\u4e00-\\u9fa5\\u3040-\\u309f\\u30a0-\\u30ff]+";

/** Letters with case, as DeepSeek LLM lists them. Escaped, for some of them change under Unicode normalization. */
const deepSeekLetters = [
  "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-\\u0293\\u0295-\\u02af\\u0370-\\u0373\\u0376\\u0377\\u037b-\\u037d\\u037f",
  "\\u0386\\u0388-\\u038a\\u038c\\u038e-\\u03a1\\u03a3-\\u03f5\\u03f7-\\u0481\\u048a-\\u052f\\u0531-",
  "\\u0556\\u10a0-\\u10c5\\u13a0-\\u13f5\\u13f8-\\u13fd\\u1c90-\\u1cba\\u1cbd-\\u1cbf\\u1d00-\\u1d2b",
  "\\u1d6b-\\u1d77\\u1d79-\\u1d9a\\u1e00-\\u1f15\\u1f18-\\u1f1d\\u1f20-\\u1f45\\u1f48-\\u1f4d\\u1f50-",
  "\\u1f57\\u1f59\\u1f5b\\u1f5d\\u1f5f-\\u1f7d\\u1f80-\\u1fb4\\u1fb6-\\u1fbc\\u1fbe\\u1fc2-\\u1fc4",
  "\\u1fc6-\\u1fcc\\u1fd0-\\u1fd3\\u1fd6-\\u1fdb\\u1fe0-\\u1fec\\u1ff2-\\u1ff4\\u1ff6-\\u1ffc\\u2102",
  "\\u2107\\u210a-\\u2113\\u2115\\u2119-\\u211d\\u2124\\u2126\\u2128\\u212a-\\u212d\\u212f-\\u2134",
  "\\u2139\\u213c-\\u213f\\u2145-\\u2149\\u214e\\u2183\\u2184\\u2c00-\\u2c7b\\u2c7e-\\u2ce4\\u2ceb-",
  "\\u2cee\\u2cf2\\u2cf3\\ua640-\\ua66d\\ua680-\\ua69b\\ua722-\\ua76f\\ua771-\\ua787\\ua78b-\\ua78e",
  "\\uab70-\\uabbf\\ufb00-\\ufb06\\ufb13-\\ufb17\\uff21-\\uff3a\\uff41-\\uff5a\\u{10400}-\\u{1044f}",
  "\\u{104b0}-\\u{104d3}\\u{104d8}-\\u{104fb}\\u{10c80}-\\u{10cb2}\\u{10cc0}-\\u{10cf2}\\u{118a0}-",
  "\\u{118df}\\u{1e900}-\\u{1e943}",
].join("");

/** Vocabularies that are Llama 3's in all that is told here. */
const llama3Names = [
  ...["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
];

const digitGroups = "\\p{N}{1,3}";

const families: readonly Family[] = [
  {
    names: [...llama3Names, "dbrx", "smaug-bpe", "chatglm-bpe", "glm4", "glm5"],
    expressions: [modernWords(digitGroups)],
  },
  {
    names: ["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"],
    expressions: [modernWords("\\p{N}")],
  },
  {
    names: ["jais-2"],
    // Runs of white space in powers of two.
    expressions: [
      `${modernStart(digitGroups)}\\s*[\\r\\n]+|${[512, 256, 128, 64, 32, 16, 8, 4, "1,2"].map((count) => `\\s{${count}}(?!\\S)`).join("|")}|\\s`,
    ],
  },
  {
    names: ["ufakzeka"],
    expressions: [`[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|${lineEnds}`],
  },
  { names: ["laguna"], expressions: ["[^\\n]+|\\n+", modernWords("\\p{N}")] },
  {
    names: ["exaone-moe"],
    expressions: [
      `${contractions}|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+`,
    ],
  },
  // Digits in groups of three, counted from the right; all other text is one word.
  { names: ["superbpe"], expressions: ["\\p{N}+", "[0-9]{1,3}(?=(?:[0-9]{3})*(?![0-9]))"] },
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
      "\\s?[!-/:-~\\uff01-\\uff0f\\uff1a-\\uff5e\\u2018-\\u201f\\u3000-\\u3002]+",
      "(?<!\\s)\\s+$",
      "[\\u4e00-\\u9fa5\\u0800-\\u4e00\\uac00-\\ud7ff]+",
      "\\p{N}+",
    ],
  },
  {
    names: ["deepseek-coder"],
    expressions: [
      "[\\r\\n]",
      "\\s?\\p{L}+",
      "\\s?\\p{P}+",
      "[\\u4e00-\\u9fa5\\u0800-\\u4e00\\uac00-\\ud7ff]+",
      "\\p{N}",
    ],
  },
  {
    names: ["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
    expressions: [digitGroups, deepSeek3Script, `${deepSeek3Words}[\\r\\n]*|${lineEnds}`],
  },
  {
    names: ["spark2_5"],
    expressions: [digitGroups, deepSeek3Script, `${deepSeek3Words}|[\\r\\n]|\\s+(?!\\S)|\\s+`, "\\p{N}"],
  },
  {
    names: ["falcon"],
    expressions: ["[\\p{P}$+<=>^~|`]+", gpt2, "[0-9][0-9][0-9]"],
  },
  {
    names: ["default"],
    expressions: ["[\\p{P}$+<=>^~|]+", gpt2, "\\p{N}+", "[0-9][0-9][0-9]"],
  },
  {
    names: ["poro-chat", "bloom", "gpt3-finnish"],
    expressions: [" ?[^(\\s|.,!?\\u2026\\u3002\\uff0c\\u3001\\u0964\\u06d4\\u060c)]+"],
  },
  { names: ["viking"], expressions: [" ?[^(\\s|.,!?\\u2026\\u3002\\uff0c\\u3001\\u0964\\u06d4\\u060c)]+", "\\p{N}"] },
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

/** Every name that is known. */
export const preTokenizers: readonly string[] = families.flatMap(({ names }) => names);

const ignoringMerges: readonly string[] = [...llama3Names, "glm4", "glm5", "tekken", "minicpm5"];
const addingBos: readonly string[] = [...llama3Names, "tekken"];
const withoutBos: readonly string[] = ["chatglm-bpe", "glm4", "glm5"];
