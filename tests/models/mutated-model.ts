import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { architectureModels } from "./architecture-models.js";
import { Random } from "./random.js";
import { writeRandomGguf } from "./random-gguf.js";
import { writeRandomModel } from "./random-model.js";
import { spmTokenizer } from "./spm-tokenizer.js";

const blockAttention = { version: 1, prefix: "[B]", modes: ["block", "full"] } as const;

/** The sound models that are mutated, written to a folder: Hugging Face folders and GGUF files. */
export function writeSoundModels(folder: string): string[] {
  const to = (name: string) => join(folder, name);
  writeRandomModel(to("llama"), { architecture: "llama", rope: "llama3", blockAttention, seed: 91 });
  writeRandomModel(to("qwen2"), { architecture: "qwen2", dtype: "BF16", shards: 2, configStyle: "transformers-4" });
  writeRandomModel(to("spm"), { architecture: "mistral", slidingWindow: 128, tied: true, seed: 92 });
  writeSpmTokenizer(to("spm"));
  writeRandomModel(to("steps"), { architecture: "qwen3", rope: "yarn", seed: 93 });
  writeManySteps(to("steps"));
  writeRandomGguf(to("llama.gguf"), { architecture: "llama", rope: "llama3", blockAttention, seed: 94 });
  writeRandomGguf(to("qwen3.gguf"), { architecture: "qwen3", type: "F16", rope: "yarn", tied: true, seed: 95 });
  const seen = ["llama", "mistral", "qwen2", "qwen3"];
  const others = Object.entries(architectureModels).filter(([name]) => !seen.includes(name));
  for (const [name, shape] of others) {
    writeRandomModel(to(name), shape);
    writeRandomGguf(to(`${name}.gguf`), shape);
  }
  const names = ["llama", "qwen2", "spm", "steps", "llama.gguf", "qwen3.gguf"];
  return [...names, ...others.flatMap(([name]) => [name, `${name}.gguf`])].map(to);
}

function writeSpmTokenizer(folder: string): void {
  const named = (content: string, id: number) => ({ id, content, special: true, normalized: false, lstrip: false });
  const tokenizer = {
    ...spmTokenizer({ tokens: ["t", "h", "th"], merges: ["t h"] }),
    added_tokens: [named("<unk>", 0), named("<s>", 1), named("</s>", 2)],
  };
  const config = {
    bos_token: "<s>",
    eos_token: { content: "</s>" },
    add_bos_token: true,
    chat_template: "{{ messages }}",
  };
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(tokenizer));
  writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify(config));
}

/** The random models' tokenizer with steps of all kinds. */
function writeManySteps(folder: string): void {
  const path = join(folder, "tokenizer.json");
  const tokenizer = JSON.parse(readFileSync(path, "utf8"));
  tokenizer.normalizer = {
    type: "Sequence",
    normalizers: [
      { type: "NFC" },
      { type: "Replace", pattern: { Regex: " {2,}" }, content: " " },
      { type: "Lowercase" },
      { type: "Strip", strip_left: true, strip_right: false },
    ],
  };
  const words =
    "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
  tokenizer.pre_tokenizer = {
    type: "Sequence",
    pretokenizers: [
      { type: "Split", pattern: { Regex: words }, behavior: "Isolated", invert: false },
      { type: "Digits", individual_digits: true },
      { type: "Punctuation", behavior: "MergedWithPrevious" },
      { type: "Split", pattern: { Regex: "[ab]+?c" }, behavior: "Contiguous", invert: true },
      { type: "ByteLevel", add_prefix_space: true, use_regex: true },
    ],
  };
  writeFileSync(path, JSON.stringify(tokenizer));
  writeFileSync(
    join(folder, "chat_template.jinja"),
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
  );
}

/** A broken copy of one of the models: the same for the same seed. */
export interface MutatedModel {
  /** The copy's folder or file. */
  readonly path: string;
  /** What was changed, for messages. */
  readonly changes: readonly string[];
}

/** Writes a copy of one of `sound`, with one to three things changed, below an empty `folder`. */
export function writeMutatedModel(folder: string, sound: readonly string[], seed: number): MutatedModel {
  const random = new Random(seed, "mutations");
  const source = sound[random.below(sound.length)]!;
  const isGguf = source.endsWith(".gguf");
  const path = join(folder, isGguf ? "model.gguf" : "model");
  mkdirSync(folder, { recursive: true });
  cpSync(source, path, { recursive: true });
  // Most of what a model's files say is in its tokenizer.
  const names = isGguf ? [""] : [...readdirSync(path), "tokenizer.json", "tokenizer.json", "tokenizer.json"];
  const changes = Array.from({ length: 1 + Math.floor(random.below(4) / 2) }, () => {
    const name = pick(random, names);
    const file = join(path, name);
    if (!existsSync(file)) return `${name}: gone`;
    const [bytes, change] = mutate(readFileSync(file), name, random);
    writeFileSync(file, bytes);
    return `${name || "model.gguf"}: ${change}`;
  });
  return { path, changes };
}

/**
 * Writes a copy of a GGUF file with one thing changed before its weights, which are zeros that take no room on the disk.
 *
 * @param head the file's bytes up to its weights.
 * @param numBytes the file's own.
 */
export function writeMutatedHead(path: string, head: Buffer, numBytes: number, seed: number): MutatedModel {
  const random = new Random(seed, "mutated heads");
  const [bytes, change] = random.below(5) > 0 ? mutateGguf(head, random) : mutateBytes(head, random, 20_000);
  writeFileSync(path, bytes);
  truncateSync(path, bytes.length + numBytes - head.length);
  return { path, changes: [change] };
}

type Mutated = readonly [bytes: Uint8Array, change: string];

function mutate(bytes: Buffer, name: string, random: Random): Mutated {
  const isStructural = random.below(5) > 0;
  if (name === "") return isStructural ? mutateGguf(bytes, random) : mutateBytes(bytes, random, 20_000);
  if (name.endsWith(".safetensors")) {
    const length = Number(bytes.readBigUInt64LE());
    if (!isStructural || length > bytes.length - 8) return mutateBytes(bytes, random, length + 8);
    const [json, change] = mutateJson(bytes.subarray(8, 8 + length), random);
    const head = Buffer.alloc(8);
    head.writeBigUInt64LE(BigInt(json.byteLength));
    return [Buffer.concat([head, json, bytes.subarray(8 + length)]), change];
  }
  if (isStructural && name.endsWith(".jinja")) return [Buffer.from(pick(random, templates)), "another template"];
  if (name === "tokenizer.json" && random.below(2) === 0) return putSteps(bytes, random);
  return isStructural && name.endsWith(".json") ? mutateJson(bytes, random) : mutateBytes(bytes, random, bytes.length);
}

function pick<T>(random: Random, items: readonly T[]): T {
  return items[random.below(items.length)]!;
}

/** Changes bytes as they come, most often among the first `head`. */
function mutateBytes(bytes: Buffer, random: Random, head: number): Mutated {
  const copy = Buffer.from(bytes);
  const place = random.below(random.below(4) === 0 ? copy.length + 1 : Math.min(head, copy.length) + 1);
  switch (random.below(6)) {
    case 0:
      return [copy.subarray(0, place), `cut at ${place}`];
    case 1:
      for (let i = 0; i < 1 + random.below(8) && place + i < copy.length; i++) copy[place + i]! ^= 1 << random.below(8);
      return [copy, `bits flipped from ${place} on`];
    case 2:
      copy.fill(pick(random, [0, 0xff, 0x20, 0x7b]), place, Math.min(copy.length, place + 1 + random.below(64)));
      return [copy, `filled from ${place} on`];
    case 3:
      return [
        Buffer.concat([copy.subarray(0, place), copy.subarray(place + 1 + random.below(64))]),
        `a hole at ${place}`,
      ];
    case 4: {
      const from = random.below(copy.length + 1);
      const inserted = copy.subarray(from, from + 1 + random.below(256));
      return [Buffer.concat([copy.subarray(0, place), inserted, copy.subarray(place)]), `bytes of ${from} at ${place}`];
    }
    default:
      return [Buffer.concat([copy, Buffer.alloc(random.below(100), "}]\0")]), "more at the end"];
  }
}

const megabyte = "a".repeat(2 ** 20);
/** Stands for nesting too deep to be a value. */
const deep = "\u0001deep\u0001";

const numbers: readonly unknown[] = [
  ...[0, -1, 1, 0.5, 2, 3, 64, 2 ** 16, 2 ** 22, 2 ** 31, 2 ** 32, 2 ** 53, 2 ** 63, 1e308, 1e-300],
];
const texts: readonly string[] = [
  ...["", "a", " ", "▁", "\u0000", "\ud800", "🙂", "true", "1", "NaN", megabyte, "x\n".repeat(1000), "../../x", deep],
  ...[
    "(a|a)*b",
    "(.*)*x",
    "(?:a+)+$",
    "\\s+$",
    "a*",
    "[",
    "\\p{Foo}",
    "(?<=a+)b",
    "x{1000000}",
    "^",
    "$",
    "|",
    "(?i:a)|b",
  ],
  ...["Sequence", "ByteLevel", "Metaspace", "Replace", "Split", "Prepend", "Strip", "Fuse", "NFKC", "Digits", "BPE"],
  ...["Removed", "Contiguous", "MergedWithNext", "always", "first", "never"],
  ...[
    "F64",
    "BF16",
    "F8_E4M3",
    "I64",
    "BOOL",
    "llama",
    "qwen2",
    "mistral",
    "LlamaForCausalLM",
    "dynamic",
    "yarn",
    "linear",
  ],
];
const templates: readonly string[] = [
  "{% for i in range(1000000000) %}x{% endfor %}",
  "{% for i in range(1000000) %}{% for j in range(1000000) %}{% endfor %}{% endfor %}",
  "{% set x = namespace(y='aa') %}{% for i in range(60) %}{% set x.y = x.y + x.y %}{% endfor %}{{ x.y }}",
  "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
  "{{ 'a' * 1000000000 }}",
  "{{ messages }}",
  "{{ undefined.a.b }}",
  "{% if",
  "{{ raise_exception('no') }}",
  "{{ strftime_now('%Y') }}{{ messages[0].content | upper | replace('', 'a') }}",
  "(".repeat(10_000),
  `{{ ${"(".repeat(5000)}1${")".repeat(5000)} }}`,
];
const values: readonly unknown[] = [
  ...[null, true, false, ...numbers, ...texts, ...templates],
  ...[[], {}, [[]], [null], [1, 2, 3], new Array(100_000).fill(0), { type: "Sequence" }, { "": 1 }],
  ...[{ String: "a" }, { String: "" }, { Regex: "(a|a)*b" }, { Regex: "a*" }, { type: "Metaspace", replacement: "" }],
  { type: "Replace", pattern: { String: "a" }, content: "aa" },
  { type: "Sequence", normalizers: new Array(12).fill({ type: "Replace", pattern: { String: "a" }, content: "aa" }) },
];

/** Half of the time of the type that is wanted at the place, else of any. */
function otherValue(random: Random, key: string | number, now: unknown): unknown {
  if (random.below(2) === 0) return pick(random, values);
  if (typeof now === "number") return pick(random, numbers);
  if (typeof now === "string") return pick(random, key === "chat_template" ? templates : texts);
  return typeof now === "boolean" ? !now : pick(random, values);
}

const expressions: readonly string[] = [
  ...[
    "(a|a)*b",
    "(.*)*x",
    "(?:a+)+$",
    "(\\w|\\d)*!",
    "\\s+$",
    "a+b",
    "a*",
    "(?=a)",
    "(?<=a+)b",
    "(a)\\1",
    "[ab]+?c",
    ".",
  ],
  ...["\\p{L}+", "\\d{1,3}", "[^\\s]+", " ?\\p{L}+|\\s+(?!\\S)|\\s+", "x{1000000}", "(((a{9}){99}){99}){99}", "[", ""],
];

/** Puts steps of random kinds in the place of a tokenizer's own. */
function putSteps(bytes: Buffer, random: Random): Mutated {
  const text = () =>
    pick(random, ["", "a", "aa", " ", "▁", "aaaaaaaa", "b", "é", ...(random.below(8) > 0 ? [] : texts)]);
  const pattern = () => (random.below(2) === 0 ? { String: text() } : { Regex: pick(random, expressions) });
  const is = () => random.below(2) === 0;
  const replace = () => ({ type: "Replace", pattern: pattern(), content: text() });
  const strip = () => ({
    type: "Strip",
    content: text(),
    start: random.below(3),
    stop: random.below(2),
    strip_left: is(),
  });
  const metaspace = () => ({
    type: "Metaspace",
    replacement: text(),
    prepend_scheme: pick(random, ["always", "first", "never"]),
    split: is(),
  });
  const behavior = () => pick(random, ["Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext"]);
  const kinds = {
    normalizer: [
      replace,
      replace,
      strip,
      () => ({ type: pick(random, ["NFC", "NFD", "NFKC", "NFKD", "Lowercase"]) }),
      () => ({ type: "Prepend", prepend: text() }),
    ],
    pre_tokenizer: [
      () => ({ type: "Split", pattern: pattern(), behavior: behavior(), invert: is() }),
      () => ({ type: "Digits", individual_digits: is() }),
      () => ({ type: "Punctuation", behavior: behavior() }),
      () => ({ type: pick(random, ["Whitespace", "WhitespaceSplit"]) }),
      metaspace,
    ],
    decoder: [replace, strip, metaspace, () => ({ type: pick(random, ["Fuse", "ByteFallback", "ByteLevel"]) })],
  };
  const name = pick(random, ["normalizer", "pre_tokenizer", "decoder"] as const);
  const lists = { normalizer: "normalizers", pre_tokenizer: "pretokenizers", decoder: "decoders" };
  const length = pick(random, [1, 2, 3, 12, 40]);
  // The same again and again, or one after the other.
  const one = pick(random, kinds[name])();
  const steps = Array.from({ length }, () => (length > 3 ? one : pick(random, kinds[name])()));
  const isByteLevel = name === "pre_tokenizer" && is();
  const more = isByteLevel ? [{ type: "ByteLevel", add_prefix_space: is(), use_regex: is() }] : [];
  const put = { [name]: { type: "Sequence", [lists[name]]: [...steps, ...more] } };
  const tokenizer: unknown = parsed(bytes);
  if (typeof tokenizer !== "object" || tokenizer === null) return mutateBytes(bytes, random, bytes.length);
  return [Buffer.from(JSON.stringify({ ...tokenizer, ...put })), JSON.stringify(put).slice(0, 300)];
}

function parsed(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString());
  } catch {
    return undefined;
  }
}

type Container = Record<string, unknown> | unknown[];

/** Changes one place of a JSON text's value. The way there is drawn step by step, so that long lists don't take it all. */
function mutateJson(bytes: Buffer, random: Random): Mutated {
  const value = parsed(bytes);
  if (value === undefined) return mutateBytes(bytes, random, bytes.length);
  const root = { value };
  let container: Container = root;
  let key: string | number = "value";
  let path = "";
  for (;;) {
    const inner: unknown = (container as Record<string, unknown>)[key];
    if (typeof inner !== "object" || inner === null || (path !== "" && random.below(4) === 0)) break;
    const keys = Object.keys(inner);
    if (keys.length === 0) break;
    container = inner as Container;
    key = Array.isArray(inner) ? random.below(keys.length) : pick(random, keys);
    path += `.${key}`;
  }
  const put = (other: unknown) => {
    (container as Record<string, unknown>)[key] = other;
  };
  const now: unknown = (container as Record<string, unknown>)[key];
  let change: string;
  switch (random.below(8)) {
    case 0:
      change = "left out";
      if (Array.isArray(container)) container.splice(Number(key), 1);
      else delete container[key];
      break;
    case 1:
      change = "twice";
      if (Array.isArray(container)) container.splice(Number(key), 0, now);
      else container[`${key}${pick(random, ["", " ", "_", "\u0000"])}x`] = now;
      break;
    case 2:
      change = "wrapped";
      put(pick<unknown>(random, [[now], { value: now }, { type: "Sequence", decoders: [now], normalizers: [now] }]));
      break;
    case 3:
      change = "scaled";
      put(
        typeof now === "number"
          ? now * pick(random, [-1, 0.5, 2, 1000, 2 ** 40])
          : `${JSON.stringify(now)}${now}`.slice(0, 999),
      );
      break;
    default: {
      const other = otherValue(random, key, now);
      change = `becomes ${JSON.stringify(other)?.slice(0, 60)}`;
      put(other);
    }
  }
  const text = JSON.stringify(root.value) ?? "";
  const nesting = pick(random, [60, 70, 100_000]);
  return [
    Buffer.from(text.replace(JSON.stringify(deep), "[".repeat(nesting) + "]".repeat(nesting))),
    `${path} ${change}`,
  ];
}

/** A run of a GGUF file's header, by what it says. */
interface Spot {
  readonly kind: "count" | "size" | "type" | "text" | "number" | "entry";
  readonly start: number;
  readonly end: number;
}

/** Finds what a sound file's header consists of; of a broken one, what there is before the break. */
function spotsOf(bytes: Buffer): Spot[] {
  const spots: Spot[] = [];
  let at = 8;
  const take = (kind: Spot["kind"], length: number) => {
    if (at + length > bytes.length) throw new RangeError("the header is broken");
    spots.push({ kind, start: at, end: at + length });
    at += length;
    return at - length;
  };
  const count = (kind: "count" | "size") => Number(bytes.readBigUInt64LE(take(kind, 8)));
  const text = () => take("text", count("size"));
  const widths = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];
  const value = (type: number): void => {
    if (type === 8) text();
    else if (type === 9) {
      const itemType = bytes.readUInt32LE(take("type", 4));
      const length = count("count");
      for (let i = 0; i < length; i++) value(itemType);
    } else take("number", widths[type] ?? 0);
  };
  try {
    const [numTensors, numEntries] = [count("count"), count("count")];
    for (let i = 0; i < numEntries; i++) {
      const start = at;
      text();
      value(bytes.readUInt32LE(take("type", 4)));
      spots.push({ kind: "entry", start, end: at });
    }
    for (let i = 0; i < numTensors; i++) {
      const start = at;
      text();
      const numSizes = bytes.readUInt32LE(take("number", 4));
      for (let size = 0; size < numSizes; size++) count("count");
      take("type", 4);
      count("count");
      spots.push({ kind: "entry", start, end: at });
    }
  } catch {
    // What was found is enough.
  }
  return spots;
}

function mutateGguf(bytes: Buffer, random: Random): Mutated {
  const spots = spotsOf(bytes);
  if (spots.length === 0) return mutateBytes(bytes, random, bytes.length);
  const kind = pick(random, ["count", "size", "type", "text", "text", "number", "number", "entry", "entry"] as const);
  const fitting = spots.filter((spot) => spot.kind === kind);
  // The vocabulary's are most of them: half of the time one of the others.
  const spot = pick(random, random.below(2) === 0 ? fitting : fitting.slice(0, 60)) ?? spots[0]!;
  const headEnd = spots.at(-1)!.end;
  // The weights stay where the header says: else a text of another length would be refused for them, whatever it says.
  const with_ = (put: Uint8Array, { start = spot.start, from = bytes } = {}) => {
    const head = Buffer.concat([from.subarray(0, start), put, bytes.subarray(spot.end, headEnd)]);
    return Buffer.concat([head, Buffer.alloc(-head.length & 31), bytes.subarray(headEnd + (-headEnd & 31))]);
  };
  const number = Buffer.alloc(8);
  switch (spot.kind) {
    case "count":
    case "size": {
      const before = bytes.readBigUInt64LE(spot.start);
      const extremes = [0n, 1n, before + 1n, before * 2n, 1n << 20n, 1n << 31n, 1n << 32n, 1n << 53n, (1n << 64n) - 1n];
      number.writeBigUInt64LE(BigInt.asUintN(64, pick(random, extremes)));
      return [with_(number), `the ${spot.kind} at ${spot.start} becomes ${number.readBigUInt64LE()}`];
    }
    case "type": {
      const type = pick(random, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 30, 31, 99, 2 ** 32 - 1]);
      number.writeUInt32LE(type);
      return [with_(number.subarray(0, 4)), `the type at ${spot.start} becomes ${type}`];
    }
    case "text": {
      const text = pick(random, [
        "",
        "a",
        "\u0000",
        "a b",
        megabyte,
        "\ufffd",
        "llama",
        "gpt2",
        "default",
        "{{ messages }}",
      ]);
      const put = random.below(8) === 0 ? Buffer.from([0xff, 0xfe]) : Buffer.from(text);
      number.writeBigUInt64LE(BigInt(put.length));
      const sized = with_(Buffer.concat([number, put]), { start: spot.start - 8 });
      return [sized, `the text at ${spot.start} becomes ${JSON.stringify(text.slice(0, 20))}`];
    }
    case "number": {
      const put = Buffer.alloc(spot.end - spot.start);
      const way = random.below(4);
      if (way === 0) put.fill(0xff);
      else if (way === 1) put.fill(0x7f);
      else if (way === 2) put[0] = random.below(256);
      return [with_(put), `the number at ${spot.start} becomes ${put.toString("hex")}`];
    }
    case "entry": {
      const isTwice = random.below(2) === 0;
      const entry = bytes.subarray(spot.start, spot.end);
      const from = Buffer.from(bytes);
      const isMetadata = fitting.indexOf(spot) < Number(bytes.readBigUInt64LE(16));
      const count = isMetadata ? 16 : 8;
      from.writeBigUInt64LE(BigInt.asUintN(64, bytes.readBigUInt64LE(count) + (isTwice ? 1n : -1n)), count);
      return isTwice
        ? [with_(Buffer.concat([entry, entry]), { from }), `the entry at ${spot.start} stands twice`]
        : [with_(Buffer.alloc(0), { from }), `the entry at ${spot.start} is left out`];
    }
    default:
      return spot.kind satisfies never;
  }
}
