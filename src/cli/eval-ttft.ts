import { basename, join, resolve } from "node:path";
import { type Command, Option } from "commander";
import { readPassageTexts } from "../eval/passage-texts.js";
import { measureTtft, TTFT_FILES, ttftNotes, ttftRows, writeTtftTable } from "../eval/ttft-table.js";
import { prepareOutputs } from "../files/outputs.js";
import { attentionModes } from "../model/block-attention-config.js";
import { tellParts } from "./eval-report.js";
import { openEngine } from "./open-engine.js";
import {
  addEngineOptions,
  type EngineFlags,
  forceOption,
  jsonOption,
  nonEmpty,
  refuseLoneForce,
  wholeNumber,
  wholeNumbers,
} from "./options.js";
import { ProgressBar } from "./progress-bar.js";
import { formatTable, note, type Terminal, writeJson } from "./terminal.js";
import { UsageError } from "./usage-error.js";

export interface EvalTtftFlags extends EngineFlags {
  readonly input?: string;
  readonly output?: string;
  readonly force?: boolean;
  readonly lengths?: readonly number[];
  readonly question?: number;
  readonly passageTokens?: number;
  readonly repeat?: number;
  readonly json?: boolean;
}

const defaultLengths = [50, 512, 1024, 2048, 4096];

/** Declares `eval ttft`'s options. */
export function evalTtftOptions(command: Command): Command {
  command
    .addOption(
      new Option(
        "--input <file>",
        'passages as raw text: lines {"title","text"} or of a set, with "documents" (default: made-up ones)',
      ).argParser(nonEmpty("--input")),
    )
    .addOption(
      new Option("--output <folder>", "also write ttft.json, ttft.md and ttft.svg there").argParser(
        nonEmpty("--output"),
      ),
    )
    .addOption(
      new Option(
        "--lengths <list>",
        `prompt lengths in tokens, the question counted (default: ${defaultLengths.join(",")})`,
      ).argParser(parseLengths),
    )
    .addOption(
      new Option("--question <n>", "tokens of the final block (default: 50)").argParser(
        wholeNumber("--question", 1, 1e6),
      ),
    )
    .addOption(
      new Option("--passage-tokens <n>", "tokens of a passage (default: 100)").argParser(
        wholeNumber("--passage-tokens", 1, 1e6),
      ),
    )
    .addOption(
      new Option("--repeat <n>", "runs of each; the median is told (default: 3)").argParser(
        wholeNumber("--repeat", 1, 1000),
      ),
    )
    .addOption(forceOption())
    .addOption(jsonOption("the table as one line of JSON"));
  return addEngineOptions(command);
}

/** Makes the paper's table of times to the first token. @returns the exit code. */
export async function runEvalTtft(flags: EvalTtftFlags, terminal: Terminal): Promise<number> {
  const { output, force } = flags;
  refuseLoneForce(flags);
  if (output !== undefined) {
    const inputs = flags.input === undefined ? [] : [flags.input];
    await prepareOutputs({ inputs, outputs: TTFT_FILES.map((name) => join(output, name)), force });
  }
  const texts = flags.input === undefined ? undefined : await readPassageTexts(flags.input, terminal.signal);
  await using engine = await openEngine({ ...flags, trainedModes: attentionModes }, terminal);
  const bar = new ProgressBar(terminal, "Measuring");
  const table = await measureTtft({
    engine,
    model: flags.model === undefined ? "the embedded model" : basename(resolve(flags.model)),
    lengths: flags.lengths ?? defaultLengths,
    questionTokens: flags.question ?? 50,
    passageTokens: flags.passageTokens ?? 100,
    repeat: flags.repeat ?? 3,
    texts,
    signal: terminal.signal,
    onProgress: (done, total) => bar.update(done, total),
  }).finally(() => bar.end());
  if (output !== undefined) await writeTtftTable(output, table);
  const [above, below] = ttftNotes(table) as [string, string];
  if (flags.json === true) await writeJson(terminal, table);
  else await tellParts([above, formatTable(ttftRows(table)), below], terminal);
  if (output !== undefined) note(terminal, `Written: ${output}, ttft.md, ttft.json and ttft.svg`);
  return 0;
}

/** In rising order. */
function parseLengths(text: string): number[] {
  const lengths = wholeNumbers("--lengths", 2)(text);
  if (new Set(lengths).size < lengths.length) {
    throw new UsageError(`Cannot use --lengths: a number stands twice in "${text}"`);
  }
  return lengths.sort((a, b) => a - b);
}
