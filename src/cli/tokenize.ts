import { type Command, Option } from "commander";
import { embeddedModelPath, loadTokenizer } from "../engine/model.js";
import { UsageError } from "../files/usage-error.js";
import { engineOption, inputOption, jsonOption } from "./options.js";
import { parseTextLine } from "./prompt-line.js";
import { oneLine, openLines, runLines } from "./run-lines.js";
import { type Terminal, write, writeJson } from "./terminal.js";

export interface TokenizeFlags {
  readonly model?: string;
  readonly input?: string;
  readonly text?: string;
  readonly special?: boolean;
  readonly json?: boolean;
}

/** Declares `tokenize`'s options. */
export function tokenizeOptions(command: Command): Command {
  return command
    .addOption(engineOption("model"))
    .addOption(inputOption('{"text"}'))
    .addOption(new Option("--text <text>", "one text"))
    .addOption(new Option("--special", "recognize control tokens, which are read as text else"))
    .addOption(jsonOption('one line of JSON for each text: {"token_ids"}'));
}

/** Tells texts' token ids, no BOS. @returns the exit code. */
export async function runTokenize(flags: TokenizeFlags, terminal: Terminal): Promise<number> {
  const { input, text, special = false, json = false } = flags;
  if (input === undefined && text === undefined) {
    throw new UsageError("Cannot tokenize: there is no text, wanted --input or --text");
  }
  if (input !== undefined && text !== undefined) throw new UsageError("Cannot use --text: --input is given too");
  using lines = input === undefined ? oneLine({ text: text as string }) : await openLines(input, terminal);
  const tokenizer = await loadTokenizer(flags.model ?? embeddedModelPath());
  return await runLines(lines, json, terminal, async (value) => {
    const tokenIds = tokenizer.encode(parseTextLine(value), special ? "all" : "none");
    if (json) await writeJson(terminal, { token_ids: tokenIds });
    else await write(terminal.stdout, `${tokenIds.join(" ")}\n`, terminal.signal);
  });
}
