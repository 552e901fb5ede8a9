import { basename, join, resolve } from "node:path";
import { chosenModel } from "../engine/model.js";
import { measureTtft, readPassageTexts, TTFT_FILES, ttftNotes, ttftRows, writeTtftTable } from "../eval/ttft-table.js";
import { wholeNumber } from "../files/options.js";
import { prepareOutputs } from "../files/outputs.js";
import { listOf, someWords } from "../files/settings.js";
import { attentionModes } from "../model/block-attention-config.js";
import { command, type FlagsOf, flag, toggle } from "./command.js";
import { tellParts } from "./eval-report.js";
import { openEngine } from "./open-engine.js";
import { engineFlags, forceFlag, refuseLoneForce } from "./options.js";
import { ProgressBar } from "./progress-bar.js";
import { formatTable, note, type Terminal, writeJson } from "./terminal.js";

const defaultLengths = [50, 512, 1024, 2048, 4096];

const ttftFlags = {
  input: flag(
    "<file>",
    'passages as raw text: lines {"title","text"} or of a set, with "documents" (default: random tokens)',
    someWords,
  ),
  output: flag("<folder>", "also write ttft.json, ttft.md and ttft.svg there", someWords),
  lengths: flag(
    "<list>",
    `prompt lengths in tokens, the question counted (default: ${defaultLengths.join(",")})`,
    listOf(wholeNumber(2), { isUnique: true }),
  ),
  question: flag("<n>", "tokens of the final block (default: 50)", wholeNumber(1, 1e6)),
  passageTokens: flag("<n>", "tokens of a passage (default: 100)", wholeNumber(1, 1e6)),
  repeat: flag("<n>", "runs of each; the median is told (default: 3)", wholeNumber(1, 1000)),
  force: forceFlag,
  json: toggle("the table as one line of JSON"),
  ...engineFlags,
};

export const evalTtftCommand = command({
  name: "ttft",
  summary: "Makes the paper's table of times to the first token.",
  flags: ttftFlags,
  run: runEvalTtft,
  help: `
Examples:
  block-attention eval ttft --lengths 50,512,1024 --output runs/ttft
  block-attention eval ttft --model ./Tulu3-Block-FT --input passages.jsonl --lengths 50,512,1024,2048,4096,8192 --output runs/ttft`,
});

/** Makes the paper's table of times to the first token. @returns the exit code. */
async function runEvalTtft(flags: FlagsOf<typeof ttftFlags>, terminal: Terminal): Promise<number> {
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
    model: basename(resolve(chosenModel(flags))),
    lengths: [...(flags.lengths ?? defaultLengths)].sort((a, b) => a - b),
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
