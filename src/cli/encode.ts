import { type PassageInput, readPassage } from "../blocks/passage.js";
import { ragDocument } from "../data/rag/rag-row.js";
import { readRows } from "../data/rows.js";
import { blockShape } from "../engine/device-memory.js";
import type { EncodeOptions } from "../engine/engine-options.js";
import type { LocalEngine } from "../engine/local-engine.js";
import { splitLongField } from "../engine/prompt.js";
import { isJsonObject, type JsonValue } from "../files/bounded-json.js";
import { formatBytes } from "../files/format-bytes.js";
import { withoutPassword } from "../files/quote.js";
import { numberOf, readSetting, someWords } from "../files/settings.js";
import { blockFileBytes } from "../kv/block-codec.js";
import { storeFolder } from "../kv/store-place.js";
import { Claims } from "./claims.js";
import { command, type Flag, type FlagsOf, flag, mandatory, toggle } from "./command.js";
import { openEngine } from "./open-engine.js";
import { deviceFlags, engineFlag, storeFlag, trainingFlags } from "./options.js";
import { ProgressBar } from "./progress-bar.js";
import { errorLine, formatDuration, note, type Terminal, write, writeJson } from "./terminal.js";

/** Passages that are handed to the engine at a time. */
const batchSize = 64;

const encodeFlags = {
  input: mandatory(
    flag(
      "<file>",
      'passages: JSON lines, a .json array or Parquet of {"title","text"} or {"text"}, with "id" and "metadata" where they have them, or texts',
      someWords,
    ),
  ),
  store: mandatory(storeFlag),
  repair: engineFlag("repair"),
  system: flag("<text>", "with --repair preamble: the system message of prompts to come", someWords),
  splitLong: {
    takes: "<n>",
    about: "split passages of more tokens: a number, or true for half the longest prompt",
    read: (text, _, origin) => readSetting({ ...splitLongField, fromText: spelled }, text, origin),
  } as Flag<EncodeOptions["splitLong"]>,
  json: toggle('one line of JSON for each passage: {"index","id","tokens","hit","durable"} or {"index","error"}'),
  model: engineFlag("model"),
  ...trainingFlags,
  ...deviceFlags,
};

function spelled(text: string): unknown {
  return text === "true" || text === "false" ? text === "true" : numberOf(text);
}

export const encodeCommand = command({
  name: "encode",
  summary: "Encodes passages ahead, into a folder or server that serve and generate find them in.",
  flags: encodeFlags,
  run: runEncode,
  help: `
What is there already is found: the same command goes on where it was interrupted. Several of them, with the same input, share the work.
A passage's "id" and "metadata" name its document: store ls --documents. Passages of one document stand one after another.

Examples:
  block-attention encode --model model.gguf --input passages.jsonl --store ./blocks?cap=20GB
  block-attention encode --model model.gguf --input passages.jsonl --store ./blocks --repair lead
  block-attention serve --model model.gguf --store ./blocks?cap=20GB`,
});

interface Passages {
  readonly number: number;
  readonly rows: readonly { readonly index: number; readonly passage: PassageInput }[];
}

/** Encodes passages. @returns the exit code: 1 if one could not be read, encoded or kept. */
async function runEncode(flags: FlagsOf<typeof encodeFlags>, terminal: Terminal): Promise<number> {
  const { signal } = terminal;
  const total = await countRows(flags.input, signal);
  await using engine = await openEngine(flags, terminal);
  const { repair, system, splitLong } = flags;
  const options = { repair, system, splitLong, signal };
  const bar = new ProgressBar(terminal, "Encoding");
  const sums = { passages: 0, documents: 0, blocks: 0, tokens: 0, hits: 0, failed: 0, lost: 0 };
  const startedMs = performance.now();
  const encodeSome = async ({ rows }: Passages): Promise<void> => {
    const isFirst = sums.passages === 0;
    sums.passages += rows.length;
    const { blocks } = await engine.encode(passagesOf({ rows }), options);
    sums.blocks += blocks.length;
    sums.documents += new Set(
      rows.map(({ passage }) => (typeof passage === "object" ? passage.id : undefined)).filter((id) => id != null),
    ).size;
    for (const block of blocks) {
      const index = rows[block.passage.index]?.index as number;
      if (block.error === undefined) {
        const { id, tokens, hit, durable } = block;
        sums.tokens += tokens;
        sums.hits += hit ? 1 : 0;
        sums.lost += durable === true ? 0 : 1;
        if (flags.json === true) await writeJson(terminal, { index, id, tokens, hit, durable });
        continue;
      }
      sums.failed += 1;
      // Its number among those that were handed over together.
      const message = block.error.message.replace(/passage \d+/, `passage ${index + 1}`);
      if (flags.json === true) await writeJson(terminal, { index, error: { ...block.error, message } });
      else note(terminal, message);
    }
    if (isFirst && total > batchSize) note(terminal, forecast(engine, sums, total, performance.now() - startedMs));
    bar.update(sums.passages, total);
  };
  const claims = new Claims(
    storeFolder(flags.store),
    JSON.stringify([await engine.model.identity, repair, system, splitLong]),
  );
  /** Those that other processes encoded meanwhile. */
  const others = new Set<number>();
  try {
    for await (const some of readPassages(flags.input, signal, (where, error) => {
      sums.failed += 1;
      bar.end();
      note(terminal, `${where}: ${errorLine(error)}`);
    })) {
      await using claim = await claims.claim(passagesOf(some));
      if (claim) await encodeSome(some);
      else others.add(some.number);
    }
    // They are there, or their process ended.
    if (others.size > 0) {
      for await (const some of readPassages(flags.input, signal, () => undefined)) {
        if (!others.has(some.number)) continue;
        await using _ = await claims.claim(passagesOf(some), signal);
        await encodeSome(some);
      }
    }
  } finally {
    bar.end();
  }
  const took = formatDuration((performance.now() - startedMs) / 1000);
  const line = `${sums.passages} passages, ${sums.tokens} tokens (${sums.hits} blocks were there) in ${took}`;
  if (flags.json === true) note(terminal, line);
  else await write(terminal.stdout, `${line}\n`, signal);
  const place = flags.store.map(withoutPassword).join(", ");
  if (sums.lost > 0) {
    note(terminal, `${sums.lost} blocks are not in ${place}: it is full, does not answer, or cannot be written`);
  }
  const { evictions = 0, capBytes = 0 } = engine.stats().store.tiers.find(({ name }) => name === "disk") ?? {};
  if (evictions > 0) {
    note(terminal, `${evictions} blocks went again for newer ones: ${place} holds ${formatBytes(capBytes)}`);
  }
  return sums.failed + sums.lost > 0 ? 1 : 0;
}

/** Passages, some at a time; those of one document that stand one after another together. */
async function* readPassages(
  input: string,
  signal: AbortSignal,
  onBad: (where: string, error: unknown) => void,
): AsyncGenerator<Passages> {
  let rows: { readonly index: number; readonly passage: PassageInput }[] = [];
  let [index, number] = [0, 0];
  let lastId: unknown;
  for await (const row of readRows(input, signal)) {
    try {
      if (row.kind === "bad") throw new Error(row.error);
      const passage = passageOf(row.value, index);
      const id = typeof passage === "string" ? undefined : passage.id;
      if (rows.length >= batchSize && (id == null || id !== lastId)) {
        yield { number, rows };
        rows = [];
        number += 1;
      }
      lastId = id;
      rows.push({ index, passage });
    } catch (error) {
      onBad(row.where, error);
    }
    index += 1;
  }
  if (rows.length > 0) yield { number, rows };
}

/** @throws Error for what is no passage. */
function passageOf(value: JsonValue, index: number): PassageInput {
  const document = ragDocument(value, index, Error);
  if (typeof document === "string" || !isJsonObject(value)) return document;
  const { id, metadata } = value;
  const passage = { ...document, ...(id != null && { id }), ...(metadata != null && { metadata }) } as PassageInput;
  readPassage(passage, index);
  return passage;
}

async function countRows(path: string, signal: AbortSignal): Promise<number> {
  let count = 0;
  for await (const _ of readRows(path, signal)) count += 1;
  return count;
}

/** What all passages will take, by the first ones. */
function forecast(
  engine: LocalEngine,
  {
    passages,
    documents,
    blocks,
    tokens,
    hits,
  }: Readonly<Record<"passages" | "documents" | "blocks" | "tokens" | "hits", number>>,
  total: number,
  tookMs: number,
): string {
  const times = total / passages;
  const shape = blockShape(engine.model.decoder, engine.kvType, Math.round(tokens / Math.max(1, blocks)));
  const bytes = Math.round(times * (blocks * unitsOf(blockFileBytes(shape)) + documents * unitsOf(1)));
  const { capBytes = bytes } = engine.stats().store.tiers.find(({ name }) => name === "disk") ?? {};
  const left = formatDuration(((tookMs / passages) * (total - passages)) / 1000);
  const time = hits === blocks ? "" : `, some ${left} more`;
  const room = bytes > capBytes ? `, of which the store keeps ${formatBytes(capBytes)}` : "";
  return `${total} passages, about ${Math.round(times * tokens)} tokens: ${formatBytes(bytes)}${room}${time}`;
}

/** What a file of so many bytes takes where files take whole units, as on most file systems. */
function unitsOf(numBytes: number): number {
  return Math.ceil(numBytes / 4096) * 4096;
}

/** Passages as the engine takes them. */
function passagesOf({ rows }: Pick<Passages, "rows">): readonly PassageInput[] {
  return rows.map(({ passage }) => passage);
}
