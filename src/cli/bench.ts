import type { LocalEngine } from "../engine/local-engine.js";
import { wholeNumber } from "../files/options.js";
import { listOf } from "../files/settings.js";
import { type AttentionMode, attentionModes } from "../model/block-attention-config.js";
import { command, type FlagsOf, flag, toggle, withDefault } from "./command.js";
import { openEngine } from "./open-engine.js";
import { engineFlags } from "./options.js";
import { ProgressBar } from "./progress-bar.js";
import { formatMs, formatTable, type Terminal, write, writeJson } from "./terminal.js";

/** In tokens, as the paper's passages are. */
const blockLength = 100;

const benchFlags = {
  tokens: withDefault(
    flag("<list>", "prompt lengths, the question counted", listOf(wholeNumber(2))),
    [512, 1024, 2048],
  ),
  question: withDefault(flag("<n>", "tokens of the final block", wholeNumber(1, 1e6)), 50),
  repeat: withDefault(flag("<n>", "runs of each; the median is told", wholeNumber(1, 1000)), 3),
  json: toggle("one line of JSON for each length"),
  ...engineFlags,
};

export const benchCommand = command({
  name: "bench",
  summary: "Measures the time to the first token on your model.",
  flags: benchFlags,
  run: runBench,
  help: `
Examples:
  block-attention bench --model model.gguf --tokens 512,1024,2048 --question 50 --repeat 3`,
});

/** Measures TTFT in full mode and in block mode, without and with the blocks in the store. @returns the exit code. */
async function runBench(flags: FlagsOf<typeof benchFlags>, terminal: Terminal): Promise<number> {
  await using engine = await openEngine({ ...flags, trainedModes: attentionModes }, terminal);
  const tooLong = flags.tokens.find((length) => length > engine.contextLength);
  if (tooLong !== undefined) {
    throw new RangeError(
      `Cannot measure ${tooLong} tokens: the model's context holds ${engine.contextLength}; choose others with --tokens`,
    );
  }
  const bar = new ProgressBar(terminal, "Measuring");
  const random = randomIds(engine.model.tokenizer.vocabSize);
  const rows = [["tokens", "full attention", "blocks, first time", "blocks in the store", "saved"]];
  const numRuns = flags.tokens.length * flags.repeat;
  let numDone = 0;
  // The first graphs of a process are slower than all others.
  await firstToken(engine, [random(blockLength), random(2)], "block", terminal.signal);
  await firstToken(engine, [random(blockLength)], "full", terminal.signal);
  try {
    for (const length of flags.tokens) {
      const times = { full: [] as number[], misses: [] as number[], hits: [] as number[] };
      for (let run = 0; run < flags.repeat; run += 1) {
        // New ids each time: no block of theirs is in the store.
        const blocks = cutIds(random(length), Math.min(flags.question, length));
        times.full.push(await firstToken(engine, blocks, "full", terminal.signal));
        times.misses.push(await firstToken(engine, blocks, "block", terminal.signal));
        times.hits.push(await firstToken(engine, blocks, "block", terminal.signal));
        numDone += 1;
        bar.update(numDone, numRuns);
      }
      const [full, misses, hits] = [median(times.full), median(times.misses), median(times.hits)];
      const saved = 1 - hits / full;
      rows.push([String(length), formatMs(full), formatMs(misses), formatMs(hits), `${(100 * saved).toFixed(1)} %`]);
      if (flags.json === true) {
        await writeJson(terminal, {
          tokens: length,
          question_tokens: Math.min(flags.question, length),
          repeat: flags.repeat,
          full_ttft_ms: full,
          block_misses_ttft_ms: misses,
          block_hits_ttft_ms: hits,
          saved,
        });
      }
    }
  } finally {
    bar.end();
  }
  if (flags.json !== true) {
    const head = `TTFT, median of ${flags.repeat}, ${engine.model.backend.threads} CPU ${engine.model.backend.threads === 1 ? "thread" : "threads"}, device ${engine.model.backend.device.name}`;
    await write(terminal.stdout, `${head}\n${formatTable(rows)}\n`, terminal.signal);
  }
  return 0;
}

async function firstToken(
  engine: LocalEngine,
  blockTokenIds: readonly (readonly number[])[],
  mode: AttentionMode,
  signal: AbortSignal,
): Promise<number> {
  const startedAt = performance.now();
  const result = await engine.complete({ blockTokenIds }, { mode, maxTokens: 1, keepPrefixes: false, signal });
  signal.throwIfAborted();
  return result.timings.ttftMs ?? performance.now() - startedAt;
}

/** Blocks of 100 ids, then the question. */
function cutIds(ids: readonly number[], numQuestion: number): number[][] {
  const numLocal = ids.length - numQuestion;
  const blocks: number[][] = [];
  for (let start = 0; start < numLocal; start += blockLength) {
    blocks.push(ids.slice(start, Math.min(numLocal, start + blockLength)));
  }
  return [...blocks, ids.slice(numLocal)];
}

function randomIds(vocabSize: number): (count: number) => number[] {
  return (count) => Array.from({ length: count }, () => Math.floor(Math.random() * vocabSize));
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] as number;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] as number)) / 2;
}
