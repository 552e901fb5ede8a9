import type { GenerateOptions, RequestOptions } from "../engine/engine-options.js";
import type { LocalEngine } from "../engine/local-engine.js";
import type { PromptInput } from "../engine/prompt.js";
import type { GenerateResult, ReuseMiss, TokenLogprob } from "../engine/results.js";
import { quote } from "../files/quote.js";
import { command, type FlagsOf, toggle } from "./command.js";
import { openEngine } from "./open-engine.js";
import {
  engineFlag,
  engineFlags,
  inputFlags,
  inputHelp,
  modeFlags,
  samplingFlags,
  samplingOptions,
} from "./options.js";
import { parsePromptLine } from "./prompt-line.js";
import { openPromptLines, passedOverNotes, runLines } from "./run-lines.js";
import { formatMs, note, type Terminal, write } from "./terminal.js";

const generateFlags = {
  ...inputFlags,
  json: toggle(
    'one line of JSON for each prompt: {"generated","token_ids","finish_reason","blocks","usage","timings","misses"?}',
  ),
  explain: toggle("say where reuse of earlier prompts ended, and the likely reason"),
  ...modeFlags,
  ...samplingFlags,
  ...engineFlags,
  keepPrefixes: engineFlag("keepPrefixes"),
};

export const generateCommand = command({
  name: "generate",
  summary: "Answers prompts.",
  flags: generateFlags,
  run: runGenerate,
  help: `
Examples:
  block-attention generate --question "Who directed it?" --documents passages.jsonl
  block-attention generate --model model.gguf --prompt "Once upon a time" --max-tokens 50
  block-attention generate --model ./Tulu3-Block-FT --prefix "[Block-Attention]" --input prompts.jsonl --json
${inputHelp}`,
});

/** Answers prompts. @returns the exit code. */
async function runGenerate(flags: FlagsOf<typeof generateFlags>, terminal: Terminal): Promise<number> {
  using lines = await openPromptLines(flags, terminal);
  await using engine = await openEngine(flags, terminal);
  const options = {
    ...samplingOptions(flags),
    positionReencoding: flags.positionReencoding,
    mode: flags.mode,
    repair: flags.repair,
    explain: flags.explain,
    signal: terminal.signal,
  };
  const json = flags.json === true;
  const told = new Set<string>();
  const onPassedOver = passedOverNotes(terminal);
  return await runLines(lines, json, terminal, async (value) => {
    const input = parsePromptLine(value, onPassedOver);
    const answer = json ? answerAsJson : answerAsText;
    const { warnings } = await answer(engine, input, options, flags, terminal);
    for (const warning of warnings) if (!told.has(warning)) note(terminal, `Warning: ${warning}`);
    for (const warning of warnings) told.add(warning);
  });
}

type Answer = (
  engine: LocalEngine,
  input: PromptInput,
  options: GenerateOptions & RequestOptions,
  flags: FlagsOf<typeof generateFlags>,
  terminal: Terminal,
) => Promise<GenerateResult>;

const answerAsJson: Answer = async (engine, input, options, flags, terminal) => {
  const logprobs: { id: number; logprob: number | undefined; top: readonly TokenLogprob[] }[] = [];
  for await (const event of engine.generate(input, options)) {
    if (event.kind === "token" && flags.logprobs !== undefined) {
      logprobs.push({ id: event.tokenId, logprob: event.logprob, top: event.top });
    }
    if (event.kind !== "done") continue;
    const line = { ...resultLine(event.result), ...(flags.logprobs !== undefined && { logprobs }) };
    // After Ctrl-C too: who asked sees that the answer was cut off.
    terminal.stdout.write(`${JSON.stringify(line)}\n`);
    return event.result;
  }
  throw new Error("Cannot complete the prompt: the answer did not end");
};

/** A result as `generate --json` tells it; times in milliseconds. */
function resultLine(result: GenerateResult) {
  const { usage, timings } = result;
  return {
    generated: result.text,
    token_ids: result.tokenIds,
    finish_reason: result.finishReason,
    blocks: result.blocks,
    usage: {
      prompt_tokens: usage.promptTokens,
      cached_tokens: usage.cachedTokens,
      reused: usage.reused,
      completion_tokens: usage.completionTokens,
    },
    timings: {
      encode_ms: timings.encodeMs,
      assemble_ms: timings.assembleMs,
      prefill_ms: timings.prefillMs,
      ttft_ms: timings.ttftMs ?? null,
      decode_ms: timings.decodeMs,
    },
    repair: result.repair && {
      text: result.repair.text,
      recomputed_tokens: result.repair.recomputedTokens,
      kept: result.repair.kept,
    },
    misses: result.misses,
  };
}

const answerAsText: Answer = async (engine, input, options, flags, terminal) => {
  for await (const event of engine.generate(input, options)) {
    if (!("text" in event)) continue;
    if (!terminal.signal.aborted) await write(terminal.stdout, event.text, terminal.signal);
    if (event.kind === "token") {
      if (flags.logprobs !== undefined) tellLogprobs(event, terminal);
      continue;
    }
    terminal.stdout.write("\n");
    note(terminal, terminal.errorColors.dim(summary(event.result)));
    for (const miss of event.result.misses ?? []) note(terminal, terminal.errorColors.dim(missLine(miss)));
    return event.result;
  }
  throw new Error("Cannot complete the prompt: the answer did not end");
};

function tellLogprobs(
  event: { readonly tokenId: number; readonly logprob: number | undefined; readonly top: readonly TokenLogprob[] },
  terminal: Terminal,
): void {
  const top = event.top.map(({ id, logprob }) => `${id} ${logprob.toFixed(4)}`).join(", ");
  note(
    terminal,
    terminal.errorColors.dim(`token ${event.tokenId} ${event.logprob?.toFixed(4) ?? ""}${top && ` (${top})`}`),
  );
}

/** One line for a person. */
function summary({ usage, timings, finishReason, mode, repair }: GenerateResult): string {
  const { promptTokens, cachedTokens, reused, completionTokens } = usage;
  const kinds = [`${reused.blocks} documents`, `${reused.prefix} prefix`, `${reused.conversation} conversation`];
  const parts = kinds.filter((kind) => !kind.startsWith("0 ")).join(", ");
  const stored = `${cachedTokens} from the store${parts && `: ${parts}`}`;
  const perSecond = (1000 * Math.max(0, completionTokens - 1)) / timings.decodeMs;
  const speed = timings.decodeMs > 0 && completionTokens > 1 ? `, ${perSecond.toFixed(1)} tokens/s` : "";
  const first = timings.ttftMs === undefined ? "" : `, first token after ${formatMs(timings.ttftMs)}`;
  const again = repair && repair.recomputedTokens > 0 ? `, ${repair.recomputedTokens} tokens again` : "";
  return `${mode} mode${repair ? ` with ${repair.text}${again}` : ""}: ${promptTokens} tokens in (${stored}), ${completionTokens} out${first}${speed}, end: ${finishReason}`;
}

/** Where reuse ended, for a person. */
function missLine({ kind, passage, token, before, asked, stored, reason }: ReuseMiss): string {
  const what = passage === undefined ? kind : `document ${passage.index + 1}`;
  const kept = stored && `, the store has ${quote(stored, 40)}`;
  return `Not reused: the ${what} from token ${token} on: after ${quote(before, 40)} stands ${quote(asked, 40)}${kept}: ${reason}`;
}
