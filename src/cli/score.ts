import { wholeNumber } from "../files/options.js";
import { UsageError } from "../files/usage-error.js";
import { command, type FlagsOf, flag, toggle } from "./command.js";
import { openEngine } from "./open-engine.js";
import { engineFlags, inputHelp, linesFlag, modeFlags } from "./options.js";
import { parseScoreLine } from "./prompt-line.js";
import { openLines, passedOverNotes, runLines } from "./run-lines.js";
import { type Terminal, write, writeJson } from "./terminal.js";

const scoreFlags = {
  input: linesFlag(),
  json: toggle('one line of JSON for each: {"block_token_ids","continuation_token_ids","logprobs","top"}'),
  top: flag("<n>", "how many of the likeliest tokens are told at each step (default: 5)", wholeNumber(0, 1_000_000)),
  stepwise: toggle("compute the continuation token by token, as an answer is"),
  ...modeFlags,
  ...engineFlags,
};

export const scoreCommand = command({
  name: "score",
  summary: "Tells how likely continuations are.",
  flags: scoreFlags,
  run: runScore,
  help: `
Examples:
  echo '{"blocks":["A passage.","Question"],"continuation":" answer"}' | block-attention score --input - --json
${inputHelp}
Each line also has "continuation": "…".`,
});

/** Tells how likely continuations are. @returns the exit code. */
async function runScore(flags: FlagsOf<typeof scoreFlags>, terminal: Terminal): Promise<number> {
  if (flags.input === undefined) throw new UsageError("Cannot score: there is no input, wanted --input");
  using lines = await openLines(flags.input, terminal);
  await using engine = await openEngine(flags, terminal);
  const json = flags.json === true;
  const { top, stepwise, positionReencoding, mode, repair } = flags;
  const onPassedOver = passedOverNotes(terminal);
  return await runLines(lines, json, terminal, async (value) => {
    const { prompt, continuation } = parseScoreLine(value, onPassedOver);
    const options = { top, stepwise, positionReencoding, mode, repair, signal: terminal.signal };
    const result = await engine.score(prompt, continuation, options);
    if (json) {
      await writeJson(terminal, {
        block_token_ids: result.blockTokenIds,
        continuation_token_ids: result.continuationTokenIds,
        logprobs: result.logprobs,
        top: result.top.map((step) => step.map(({ id, logprob }) => ({ id, logprob }))),
      });
      return;
    }
    const sum = result.logprobs.reduce((total, logprob) => total + logprob, 0);
    const perplexity = Math.exp(-sum / result.logprobs.length);
    const { promptTokens, cachedTokens } = result.usage;
    const line = `log-probability ${sum.toFixed(4)}, perplexity ${perplexity.toFixed(3)}, ${result.logprobs.length} tokens after ${promptTokens} (${cachedTokens} from the store), ${result.mode} mode`;
    await write(terminal.stdout, `${line}\n`, terminal.signal);
  });
}
