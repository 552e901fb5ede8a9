import { availableParallelism } from "node:os";
import { z } from "zod";
import type { PackSettings } from "../data/pack-work.js";
import type { RowReport } from "../data/row-tally.js";
import { dataFiles } from "../data/rows.js";
import { chosenModel } from "../engine/model.js";
import { oneOfTexts, wholeNumber } from "../files/options.js";
import { prepareOutputs } from "../files/outputs.js";
import { aNumber, someWords } from "../files/settings.js";
import { UsageError } from "../files/usage-error.js";
import { type Flag, type FlagsOf, flag, mandatory, repeated, withDefault } from "./command.js";
import { engineFlag } from "./options.js";
import { cleanText } from "./paint-blocks.js";
import { type Terminal, write, writeJson } from "./terminal.js";

type TemplateName = PackSettings["template"];

/** prepareOutputs() of a command over data. @param inputs files of rows, or folders of them. @throws as prepareOutputs(). */
export async function prepareData(
  inputs: readonly string[],
  others: readonly string[],
  outputs: readonly string[],
  force: boolean | undefined,
): Promise<void> {
  const files = await Promise.all(inputs.map(dataFiles));
  await prepareOutputs({ inputs: [...files.flat(), ...others], outputs, force });
}

export function outputFlag(what: string) {
  return mandatory(flag("<file>", what, someWords));
}

export function inputFlag(what: string) {
  return mandatory(flag("<path>", what, someWords));
}

export function inputsFlag(what: string) {
  return mandatory(repeated("<path>", what, someWords));
}

/** How many passages a context has: the least and the most. */
export function passageRangeFlag(about: string) {
  return { takes: "<n>", about, read: readRange } as Flag<readonly [number, number] | undefined>;
}

function readRange(text: string, _: unknown, origin: string): readonly [number, number] {
  const [, from, to = from] = /^(\d{1,2})(?:-(\d{1,2}))?$/.exec(text.trim()) ?? [];
  const [min, max] = [Number(from), Number(to)];
  if (from === undefined || min < 2 || max > 20 || min > max) {
    throw new UsageError(`Cannot use ${origin}: it is "${text}", wanted a number from 2 to 20, or two as in 2-10`);
  }
  return [min, max];
}

export const workersFlag = flag("<n>", "threads (default: all cores)", wholeNumber(0, 256));

export const seedFlag = withDefault(flag("<text>", "what random choices go by", someWords), "42");

export const aProbability = aNumber("a number from 0 to 1", z.number().min(0).max(1));

export function templateFlag(fallback: TemplateName) {
  const about = `own: the model's chat template; tulu: the paper's (default: ${fallback})`;
  return flag("<name>", about, oneOfTexts(["own", "tulu"] as const));
}

export const conversationsFlag = flag(
  "<how>",
  "how conversations are cut: rule: all before the last user message is local, as in the paper; spans: earlier " +
    "questions and answers see all before them, as they are served (default: rule)",
  oneOfTexts(["rule", "spans"] as const),
);

/** What cutting and tokenizing samples goes by, beside the model. */
export function cuttingFlags(template: TemplateName) {
  return {
    template: templateFlag(template),
    prefix: engineFlag("prefix"),
    maxTokens: flag("<n>", "samples have fewer tokens than this (default: 4096)", wholeNumber(2, 2 ** 24)),
    singleProbability: flag(
      "<p>",
      "share of conversations of one message that are trained in block mode (default: 0.45)",
      aProbability,
    ),
    seed: seedFlag,
    workers: workersFlag,
  };
}

/** The flags of `cuttingFlags`, their defaults filled in. */
export function cuttingSettings(
  flags: FlagsOf<ReturnType<typeof cuttingFlags>> & { readonly model: string | undefined },
  template: TemplateName,
): PackSettings & { readonly numWorkers: number } {
  return {
    model: chosenModel(flags),
    template: flags.template ?? template,
    prefix: flags.prefix,
    maxTokens: flags.maxTokens ?? 4096,
    singleProbability: flags.singleProbability ?? 0.45,
    seed: flags.seed,
    numWorkers: flags.workers ?? availableParallelism(),
  };
}

/** Tells what was read and written. @returns the exit code: 1 if a row could not be used. */
export function tellRows(
  { json, output }: { readonly json: boolean | undefined; readonly output: string },
  report: RowReport,
  terminal: Terminal,
  more: readonly string[] = [],
): Promise<number> {
  const lines = [
    `${report.rows} rows, ${report.written} written`,
    ...droppedLines(report.dropped),
    ...badLines(report, 5),
    ...more,
    `Written: ${output}, with .manifest.json`,
  ];
  return tell(report, lines, json, terminal);
}

export function droppedLines(dropped: Readonly<Record<string, number>>): string[] {
  return Object.entries(dropped).map(([reason, count]) => `  ${count} left out: ${reason}`);
}

/** @param most how many errors are told. */
export function badLines(
  { bad, errors }: { readonly bad: number; readonly errors: readonly string[] },
  most = errors.length,
): string[] {
  if (bad === 0) return [];
  return [`${bad} rows could not be used; the first of them:`, ...errors.slice(0, most).map((error) => `  ${error}`)];
}

/** Writes a report, as lines or as JSON. @returns the exit code: 1 if a row could not be used. */
export async function tell(
  report: { readonly bad: number },
  lines: readonly string[],
  json: boolean | undefined,
  terminal: Terminal,
): Promise<number> {
  if (json) await writeJson(terminal, report);
  else await write(terminal.stdout, lines.map((line) => `${cleanText(line)}\n`).join(""), terminal.signal);
  return report.bad === 0 ? 0 : 1;
}
