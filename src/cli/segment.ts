import { joinLocalBlocks } from "../blocks/block.js";
import { chosenModel, loadTokenizer, templateOf } from "../engine/model.js";
import { cutPrompt, type PromptContext, type PromptInput, promptCuts, tokenizePrompt } from "../engine/prompt.js";
import { oneOfTexts } from "../files/options.js";
import { overrideBlockAttention } from "../model/block-attention-config.js";
import { readBlockAttention } from "../model/open-model.js";
import { runToEnd } from "../tokenizer/steps.js";
import { command, type FlagsOf, flag, toggle } from "./command.js";
import { engineFlag, inputFlags, inputHelp } from "./options.js";
import { paintBlocks } from "./paint-blocks.js";
import { parsePromptLine } from "./prompt-line.js";
import { openPromptLines, passedOverNotes, runLines } from "./run-lines.js";
import { type Terminal, write, writeJson } from "./terminal.js";

interface ShownBlock {
  readonly text: string;
  readonly tokens: number;
  readonly kind: "local" | "global";
}

const segmentFlags = {
  ...inputFlags,
  model: engineFlag("model"),
  prefix: engineFlag("prefix"),
  cut: flag("<how>", "of prompts and messages: auto, parts, rule or none (default: auto)", oneOfTexts(promptCuts)),
  json: toggle('one line of JSON for each prompt: {"blocks":[{"text","tokens","kind"}],"warnings"}'),
};

export const segmentCommand = command({
  name: "segment",
  summary: "Shows how prompts are cut into blocks.",
  flags: segmentFlags,
  run: runSegment,
  help: `
Examples:
  block-attention segment --prompt "$(cat prompt.txt)"
  block-attention segment --question "Who?" --documents passages.jsonl --json
${inputHelp}`,
});

/** Shows how prompts are cut into blocks; a tokenizer is enough. @returns the exit code. */
async function runSegment(flags: FlagsOf<typeof segmentFlags>, terminal: Terminal): Promise<number> {
  using lines = await openPromptLines(flags, terminal);
  const context = await readPromptContext(chosenModel(flags), flags.prefix);
  const onPassedOver = passedOverNotes(terminal);
  return await runLines(lines, flags.json === true, terminal, async (value) => {
    const input = { ...parsePromptLine(value, onPassedOver), ...(flags.cut !== undefined && { cut: flags.cut }) };
    const { blocks, warnings } = cutForShow(input, context);
    if (flags.json === true) {
      await writeJson(terminal, { blocks, warnings });
      return;
    }
    const parts = blocks.map(
      (block, i) => ({ ...block, kind: i === blocks.length - 1 ? "final" : block.kind }) as const,
    );
    await write(terminal.stdout, `${paintBlocks(parts, terminal)}\n`, terminal.signal);
    for (const warning of warnings) terminal.stderr.write(`Warning: ${warning}\n`);
  });
}

/** The blocks that block mode tokenizes, each alone, BOS and prefix counted in the first one's tokens. */
function cutForShow(
  input: PromptInput,
  context: PromptContext,
): { readonly blocks: readonly ShownBlock[]; readonly warnings: readonly string[] } {
  const cut = runToEnd(cutPrompt(input as Exclude<PromptInput, { blockTokenIds: unknown }>, context));
  const { cutTokenIds } = tokenizePrompt(input, "block", context);
  const groups = joinLocalBlocks(cut.blocks.length, cut.numLocalAttentionBlocks);
  const blocks = groups.map(
    (group, i): ShownBlock => ({
      text: group.map((index) => cut.blocks[index]?.text ?? "").join(""),
      tokens: group.reduce((sum, index) => sum + (cutTokenIds[index]?.length ?? 0), 0),
      kind: i === groups.length - 1 || group.some((index) => cut.blocks[index]?.isGlobal === true) ? "global" : "local",
    }),
  );
  return { blocks, warnings: cut.warnings };
}

/** What cutting goes by, from a tokenizer and the model's block-attention config: no weights are wanted. */
async function readPromptContext(path: string, prefix: string | undefined): Promise<PromptContext> {
  const tokenizer = await loadTokenizer(path);
  const config = overrideBlockAttention(await readBlockAttention(path), { prefix });
  return {
    tokenizer,
    chatTemplate: templateOf(tokenizer),
    ragTexts: config?.ragPrompt,
    prefix: config?.prefix ?? "",
  };
}
