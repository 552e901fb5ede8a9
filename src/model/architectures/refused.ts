import { quote } from "../../files/quote.js";

/**
 * Why models of some architectures cannot run, by their names in config.json and in GGUF. A name that ends with "*" stands for
 * all that begin so; the first that fits holds.
 */
const refused: readonly (readonly [reason: string, names: string])[] = [
  [
    "its recurrent or linear-attention layers keep one state of all that came before, and no keys and values that could be stored for each passage",
    "mamba* falcon_mamba falcon_h1 falcon-h1 jamba bamba zamba* rwkv* arwkv* xlstm recurrent_gemma qwen3_next qwen3next qwen3_5* qwen35* granitemoehybrid granitehybrid nemotron_h* lfm2* plamo2 kimi_linear kimi-linear minimax minimax_text_01 bailing_moe_linear bailing_hybrid",
  ],
  [
    "its multi-head latent attention stores compressed rows that hold the position already, instead of keys and values",
    "deepseek_v2 deepseek_v3* deepseek2* deepseek_v4 deepseek32 deepseek4 kimi_k2* minicpm3 plm longcat* glm_moe_dsa glm-dsa",
  ],
  [
    "it is an encoder, whose tokens see those after them, or has one: it does not continue texts",
    "bert roberta xlm-roberta xlm_roberta camembert distilbert albert electra deberta* modernbert modern-bert nomic-bert* nomic_bert jina-bert* neo-bert eurobert gemma-embedding t5* mt5 umt5 bart mbart marian pegasus whisper",
  ],
  [
    "it takes pictures or sound, and no such parts are read; the text model alone may be published on its own",
    "gemma3 gemma3n* gemma4* llava* mllama qwen2_vl qwen2_5_vl qwen2vl qwen3_vl* qwen3vl* qwen2_audio phi3_v phi4mm phi4_multimodal pixtral idefics* paligemma smolvlm internvl* clip siglip* glm4v* chameleon kimi_vl minicpmv minicpmo",
  ],
];

/** Why no model of that name can run here, as the end of a sentence; undefined where it is only unknown. */
function whyRefused(name: string): string | undefined {
  const fits = (known: string) => (known.endsWith("*") ? name.startsWith(known.slice(0, -1)) : name === known);
  return refused.find(([, names]) => names.split(" ").some(fits))?.[0];
}

/**
 * The error for a name that is not in the registry.
 *
 * @param key what the file calls it. @param supported all names that are.
 */
export function unsupported(where: string, key: string, name: string, supported: readonly string[]): Error {
  const reason = whyRefused(name);
  const rest = reason === undefined ? `supported are ${supported.join(", ")}` : `which is refused: ${reason}`;
  return new Error(`Cannot read ${where}: ${key} is ${quote(name, 60)}, ${rest}`);
}
