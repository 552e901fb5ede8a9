/** A token of the test tokenizer. "control" is HF `special: true`; "user-defined" always matches. */
export interface TestToken {
  readonly text: string;
  readonly kind: "normal" | "control" | "user-defined";
}

/** A small byte-level BPE tokenizer: GPT-2's split, 256 bytes, the merges that spell some common words, and markers. */
export interface TestTokenizer {
  readonly tokens: readonly TestToken[];
  readonly merges: readonly (readonly [string, string])[];
  readonly bosTokenId: number;
  readonly eosTokenId: number;
  readonly endOfTurnTokenId: number;
  readonly chatTemplate: string;
}

// Each word's prefixes become tokens. A leading space is part of the word, as in GPT-2.
const words = [" the", " of", " and", " to", " in", " is", "er", "an", "es", " question", " answer", "ing", "\n\n"];

const chatTemplate =
  "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}" +
  "{% if message['role'] == 'assistant' %}<|end_of_text|>{% endif %}\n{% endfor %}" +
  "{% if add_generation_prompt %}<|assistant|>\n{% endif %}";

export function makeTokenizer(): TestTokenizer {
  const letters = byteLetters();
  const tokens: TestToken[] = letters.map((text) => ({ text, kind: "normal" as const }));
  const known = new Set(letters);
  const merges: [string, string][] = [];
  for (const word of words) {
    const spelled = [...Buffer.from(word, "utf8")].map((byte) => letters[byte]!);
    for (let length = 2; length <= spelled.length; length++) {
      const left = spelled.slice(0, length - 1).join("");
      const right = spelled[length - 1]!;
      if (known.has(left + right)) continue;
      known.add(left + right);
      merges.push([left, right]);
      tokens.push({ text: left + right, kind: "normal" });
    }
  }
  const bosTokenId = tokens.length;
  for (const text of [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
  ]) {
    tokens.push({ text, kind: "control" });
  }
  tokens.push({ text: "<|tool|>", kind: "user-defined" });
  return { tokens, merges, bosTokenId, eosTokenId: bosTokenId + 1, endOfTurnTokenId: bosTokenId + 2, chatTemplate };
}

export function countTokens(): number {
  return makeTokenizer().tokens.length;
}

/** The texts of tokenizer.json and tokenizer_config.json. */
export function tokenizerFiles(shape: { readonly addsBos: boolean; readonly contextLength: number }): {
  tokenizerJson: string;
  tokenizerConfigJson: string;
} {
  const tokenizer = makeTokenizer();
  const bos = tokenizer.tokens[tokenizer.bosTokenId]!.text;
  const eos = tokenizer.tokens[tokenizer.eosTokenId]!.text;
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  const addedTokens = tokenizer.tokens.flatMap(({ text, kind }, id) =>
    kind === "normal"
      ? []
      : [
          {
            id,
            content: text,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special: kind === "control",
          },
        ],
  );
  const withBos = {
    type: "TemplateProcessing",
    single: [{ SpecialToken: { id: bos, type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
    pair: [
      { SpecialToken: { id: bos, type_id: 0 } },
      { Sequence: { id: "A", type_id: 0 } },
      { Sequence: { id: "B", type_id: 1 } },
    ],
    special_tokens: { [bos]: { id: bos, ids: [tokenizer.bosTokenId], tokens: [bos] } },
  };
  const normal = tokenizer.tokens.flatMap(({ text, kind }, id) => (kind === "normal" ? [[text, id] as const] : []));
  return {
    tokenizerJson: JSON.stringify({
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: addedTokens,
      normalizer: null,
      pre_tokenizer: byteLevel,
      post_processor: shape.addsBos ? withBos : byteLevel,
      decoder: byteLevel,
      model: {
        type: "BPE",
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: null,
        end_of_word_suffix: null,
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: false,
        vocab: Object.fromEntries(normal),
        merges: tokenizer.merges,
      },
    }),
    tokenizerConfigJson: JSON.stringify({
      added_tokens_decoder: Object.fromEntries(addedTokens.map(({ id, ...rest }) => [String(id), rest])),
      // Transformers writes a token that is only named, not added, like this too.
      bos_token: shape.addsBos ? bos : null,
      eos_token: eos,
      pad_token: eos,
      chat_template: tokenizer.chatTemplate,
      clean_up_tokenization_spaces: false,
      model_max_length: shape.contextLength,
      tokenizer_class: "PreTrainedTokenizerFast",
    }),
  };
}

/** GPT-2's letter for each byte: printable ones stand for themselves, the others for U+0100 and on. */
function byteLetters(): string[] {
  let numOthers = 0;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    return String.fromCodePoint(printable ? byte : 0x100 + numOthers++);
  });
}
