import { oneAnswerFile, readAnswerFile } from "../eval/answer-files.js";
import type { ReadLines } from "../eval/rag-line.js";
import {
  differenceTable,
  type EvaluationReport,
  remarks,
  type SetsReport,
  scoreTable,
  servingTable,
  setsTable,
} from "../eval/report.js";
import type { NamedRun } from "../eval/summary.js";
import { formatTable, note, type Terminal, write, writeJson } from "./terminal.js";

/** A run to compare with, and whether lines of it could not be used. */
export interface ComparedRun {
  readonly run: NamedRun;
  readonly hasBadLines: boolean;
}

/** Reads a finished file or a run's folder; lines that cannot be used are told. @throws Error as oneAnswerFile() and readAnswerFile(). */
export async function readComparedRun(path: string, terminal: Terminal): Promise<ComparedRun> {
  const { run, read } = await readAnswerFile(await oneAnswerFile(path), terminal.signal);
  return { run, hasBadLines: tellBadLines(read, terminal) };
}

/** @returns whether there are any. */
export function tellBadLines({ numBad, errors }: ReadLines<unknown>, terminal: Terminal): boolean {
  for (const error of errors) note(terminal, error);
  if (numBad > errors.length) note(terminal, `${numBad - errors.length} more lines could not be used`);
  return numBad > 0;
}

/** What a report says of a set's lines that could not be used. */
export function badLinesNotes({ numBad }: ReadLines<unknown>): string[] {
  return numBad === 0 ? [] : [`${numBad} lines of the set could not be used and are left out.`];
}

const heading = "Percent with 95% bootstrap intervals";

export async function tellReport(report: EvaluationReport, json: boolean, terminal: Terminal): Promise<void> {
  if (json) return writeJson(terminal, report);
  await tellParts([heading, ...reportParts(report)], terminal);
}

export async function tellSets(report: SetsReport, json: boolean, terminal: Terminal): Promise<void> {
  if (json) return writeJson(terminal, report);
  const overview = report.sets.length === 1 ? [] : [formatTable(setsTable(report, "word"))];
  await tellParts([heading, ...overview, ...report.sets.flatMap((set) => [set.title, ...reportParts(set)])], terminal);
}

function reportParts(report: EvaluationReport): string[] {
  const tables = [scoreTable(report.runs), differenceTable(report.comparisons), servingTable(report.runs)];
  return [...tables.filter((rows) => rows.length > 1).map(formatTable), ...remarks(report)];
}

/** Paragraphs on standard output. */
export function tellParts(parts: readonly string[], terminal: Terminal): Promise<void> {
  return write(terminal.stdout, `${parts.join("\n\n")}\n`, terminal.signal);
}
