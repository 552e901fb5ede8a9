import type { RagDocument } from "../../blocks/block.js";
import { loadTokenizer } from "../../engine/model.js";
import { isJsonObject } from "../../files/bounded-json.js";
import { writeAtomically } from "../../files/outputs.js";
import { digestInputs, writeManifest } from "../manifest.js";
import { mapInOrder } from "../ordered-workers.js";
import { readRows } from "../rows.js";
import { writeTexts } from "../write-lines.js";
import { QUESTION_KINDS } from "./question.js";
import { type SynthLines, type SynthRange, type SynthSettings, synthWork } from "./synth-work.js";

export interface SynthFileOptions extends SynthSettings {
  /** The file of JSON lines to write. */
  readonly output: string;
  readonly numContexts: number;
  /** Contexts are numbered from here on. */
  readonly firstContext: number;
  /** The files that `noise` and `realNames` came from, which the manifest tells. */
  readonly noiseFile?: string | undefined;
  readonly namesFile?: string | undefined;
  readonly numWorkers: number;
  readonly signal: AbortSignal;
  readonly onProgress?: ((contexts: number) => void) | undefined;
}

export interface SynthReport {
  readonly contexts: number;
  readonly questions: number;
  readonly kinds: Readonly<Record<string, number>>;
}

const contextsPerPiece = 32;

/**
 * Writes contexts and their questions as JSON lines. The same settings give the same bytes, whatever the number of
 * threads. A manifest stands beside the file.
 *
 * @throws Error if the file cannot be written; the signal's reason. No half file stays.
 */
export async function writeSynthFile(options: SynthFileOptions): Promise<SynthReport> {
  const { output, numContexts, firstContext, noiseFile, namesFile, numWorkers, signal, onProgress, ...settings } =
    options;
  const inputs = await digestInputs(
    [noiseFile, namesFile].filter((file) => file !== undefined),
    signal,
  );
  const kinds: Record<string, number> = {};
  let questions = 0;
  let contexts = 0;
  async function* ranges(): AsyncGenerator<SynthRange, void> {
    for (let done = 0; done < numContexts; done += contextsPerPiece) {
      yield { first: firstContext + done, count: Math.min(contextsPerPiece, numContexts - done) };
    }
  }
  async function* texts(): AsyncGenerator<string, void> {
    const workers = { data: { kind: "synth", ...settings } as const, numWorkers, inline: () => synthWork(settings) };
    for await (const piece of mapInOrder<SynthRange, SynthLines>(ranges(), workers, signal)) {
      questions += piece.numQuestions;
      contexts = Math.min(numContexts, contexts + contextsPerPiece);
      for (const [kind, count] of Object.entries(piece.kinds)) kinds[kind] = (kinds[kind] ?? 0) + count;
      onProgress?.(contexts);
      yield piece.text;
    }
  }
  await writeAtomically(output, (partial) => writeTexts(partial, texts()));
  const { seed, split, minPassages, maxPassages, numQuestions, format, model } = settings;
  const manifest = {
    command: "data synth",
    options: {
      ...{ seed, split, contexts: numContexts, first: firstContext, passages: [minPassages, maxPassages] },
      ...{ questions: numQuestions, kinds: settings.kinds ?? QUESTION_KINDS, format },
    },
    inputs,
    tokenizerDigest: format === "train" ? (await loadTokenizer(model)).digest : undefined,
    counts: { contexts: numContexts, questions, ...kinds },
  };
  await writeManifest(output, manifest, signal);
  return { contexts: numContexts, questions, kinds };
}

/** Passages to draw noise and names from. @throws Error for rows without title and text. */
export async function readPassages(path: string, signal: AbortSignal): Promise<RagDocument[]> {
  const documents: RagDocument[] = [];
  for await (const row of readRows(path, signal)) {
    if (row.kind === "bad") throw new Error(row.error);
    const { title, text } = isJsonObject(row.value) ? row.value : {};
    if (typeof title !== "string" || typeof text !== "string") {
      throw new Error(`Cannot use ${row.where}: it has no "title" and "text" of text`);
    }
    documents.push({ title, text });
  }
  return documents;
}
