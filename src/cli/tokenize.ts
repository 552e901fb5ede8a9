import { chosenModel, loadTokenizer } from "../engine/model.js";
import { UsageError } from "../files/usage-error.js";
import { command, type Flag, type FlagsOf, toggle } from "./command.js";
import { engineFlag, linesFlag } from "./options.js";
import { parseTextLine } from "./prompt-line.js";
import { oneLine, openLines, runLines } from "./run-lines.js";
import { type Terminal, write, writeJson } from "./terminal.js";

const tokenizeFlags = {
  model: engineFlag("model"),
  input: linesFlag('{"text"}'),
  text: { takes: "<text>", about: "one text" } as Flag<string | undefined>,
  special: toggle("recognize control tokens, which are read as text else"),
  json: toggle('one line of JSON for each text: {"token_ids"}'),
};

export const tokenizeCommand = command({
  name: "tokenize",
  summary: "Tells texts' token ids, no BOS.",
  flags: tokenizeFlags,
  run: runTokenize,
  help: `
Examples:
  block-attention tokenize --text "Hello world"
  block-attention tokenize --model vocabulary.gguf --input texts.jsonl --json     a line is {"text": "…"}`,
});

/** Tells texts' token ids, no BOS. @returns the exit code. */
async function runTokenize(flags: FlagsOf<typeof tokenizeFlags>, terminal: Terminal): Promise<number> {
  const { input, text, special = false, json = false } = flags;
  if (input === undefined && text === undefined) {
    throw new UsageError("Cannot tokenize: there is no text, wanted --input or --text");
  }
  if (input !== undefined && text !== undefined) throw new UsageError("Cannot use --text: --input is given too");
  using lines = input === undefined ? oneLine({ text: text as string }) : await openLines(input, terminal);
  const tokenizer = await loadTokenizer(chosenModel(flags));
  return await runLines(lines, json, terminal, async (value) => {
    const tokenIds = tokenizer.encode(parseTextLine(value), special ? "all" : "none");
    if (json) await writeJson(terminal, { token_ids: tokenIds });
    else await write(terminal.stdout, `${tokenIds.join(" ")}\n`, terminal.signal);
  });
}
