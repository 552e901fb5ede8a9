/**
 * SPM as Hugging Face writes it, over a, b and ▁, with a dummy space and bytes for what has no token.
 *
 * @param more tokens and merges beside those of a and b.
 */
export function spmTokenizer(more: { readonly tokens?: readonly string[]; readonly merges?: readonly string[] } = {}) {
  const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
  const tokens = ["<unk>", "<s>", "</s>", ...bytes, "▁", "a", "b", "▁a", "ab", ...(more.tokens ?? [])];
  return {
    added_tokens: [] as readonly object[],
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "▁" },
        { type: "Replace", pattern: { String: " " }, content: "▁" },
      ],
    },
    pre_tokenizer: null,
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model: {
      type: "BPE",
      unk_token: "<unk>",
      fuse_unk: true,
      byte_fallback: true,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: ["▁ a", ["a", "b"], ...(more.merges ?? [])],
    },
  };
}
