import type { RagDocument } from "../blocks/block.js";
import { ragDocument } from "../data/rag/rag-row.js";
import { readRows } from "../data/rows.js";
import type { EncodeOptions } from "../engine/engine-options.js";
import type { LocalEngine } from "../engine/local-engine.js";
import { splitLongField } from "../engine/prompt.js";
import { formatBytes } from "../files/format-bytes.js";
import { withoutPassword } from "../files/quote.js";
import { numberOf, readSetting, someWords } from "../files/settings.js";
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
      'passages: JSON lines, a .json array or Parquet of {"title","text"} or {"text"}, or texts',
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
What is there already is found: the same command goes on where it was interrupted.

Examples:
  block-attention encode --model model.gguf --input passages.jsonl --store ./blocks?cap=20GB
  block-attention encode --model model.gguf --input passages.jsonl --store ./blocks --repair lead
  block-attention serve --model model.gguf --store ./blocks?cap=20GB`,
});

/** Encodes passages. @returns the exit code: 1 if one could not be read, encoded or kept. */
async function runEncode(flags: FlagsOf<typeof encodeFlags>, terminal: Terminal): Promise<number> {
  const { signal } = terminal;
  const total = await countRows(flags.input, signal);
  await using engine = await openEngine(flags, terminal);
  const { repair, system, splitLong } = flags;
  const options = { repair, system, splitLong, signal };
  const bar = new ProgressBar(terminal, "Encoding");
  const sums = { passages: 0, tokens: 0, hits: 0, failed: 0, lost: 0 };
  const startedMs = performance.now();
  let batch: { readonly index: number; readonly passage: string | RagDocument }[] = [];
  const encodeBatch = async (): Promise<void> => {
    const some = batch;
    batch = [];
    const isFirst = sums.passages === 0;
    sums.passages += some.length;
    const { blocks } = await engine.encode(
      some.map(({ passage }) => passage),
      options,
    );
    for (const block of blocks) {
      const index = some[block.passage.index]?.index as number;
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
  let index = 0;
  try {
    for await (const row of readRows(flags.input, signal)) {
      try {
        if (row.kind === "bad") throw new Error(row.error);
        batch.push({ index, passage: ragDocument(row.value, index, Error) });
      } catch (error) {
        sums.failed += 1;
        bar.end();
        note(terminal, `${row.where}: ${errorLine(error)}`);
      }
      index += 1;
      if (batch.length === batchSize) await encodeBatch();
    }
    if (batch.length > 0) await encodeBatch();
  } finally {
    bar.end();
  }
  const took = formatDuration((performance.now() - startedMs) / 1000);
  const line = `${sums.passages} passages, ${sums.tokens} tokens (${sums.hits} blocks were there) in ${took}`;
  if (flags.json === true) note(terminal, line);
  else await write(terminal.stdout, `${line}\n`, signal);
  const place = flags.store.map(withoutPassword).join(", ");
  if (sums.lost > 0) {
    note(
      terminal,
      `${sums.lost} blocks are not in ${place}: it is full, does not answer, or another process writes there`,
    );
  }
  const { evictions = 0, capBytes = 0 } = engine.stats().store.tiers.find(({ name }) => name === "disk") ?? {};
  if (evictions > 0) {
    note(terminal, `${evictions} blocks went again for newer ones: ${place} holds ${formatBytes(capBytes)}`);
  }
  return sums.failed + sums.lost > 0 ? 1 : 0;
}

async function countRows(path: string, signal: AbortSignal): Promise<number> {
  let count = 0;
  for await (const _ of readRows(path, signal)) count += 1;
  return count;
}

/** What all passages will take, by the first ones. */
function forecast(
  engine: LocalEngine,
  { passages, tokens, hits }: { passages: number; tokens: number; hits: number },
  total: number,
  tookMs: number,
): string {
  const all = Math.round((tokens / passages) * total);
  const { numLayers, numKvHeads, headSize } = engine.model.source.config;
  const bytes = all * 2 * numLayers * numKvHeads * headSize * (engine.kvType === "f32" ? 4 : 2);
  const { capBytes = bytes } = engine.stats().store.tiers.find(({ name }) => name === "disk") ?? {};
  const left = formatDuration(((tookMs / passages) * (total - passages)) / 1000);
  const time = hits === passages ? "" : `, some ${left} more`;
  const room = bytes > capBytes ? `, of which the store keeps ${formatBytes(capBytes)}` : "";
  return `${total} passages, about ${all} tokens: ${formatBytes(bytes)}${room}${time}`;
}
