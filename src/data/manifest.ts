import { stat, writeFile } from "node:fs/promises";
import { basename } from "node:path";
import type { JsonObject } from "../files/bounded-json.js";
import { writeAtomically } from "../files/outputs.js";
import { describeFileError } from "../files/regular-file.js";
import { fileState, hashFile } from "../kv/file-digest.js";

/** A file that went in. */
export interface ManifestInput {
  /** As the user named it; of a folder's file, that name and the file's. */
  readonly path: string;
  /** Its size in bytes; null for a pipe or standard input, which can be read but once. */
  readonly bytes: number | null;
  /** SHA-256, 64 hexadecimal digits; null for a pipe or standard input. */
  readonly sha256: string | null;
}

/** What a command tells of the file that it wrote. */
export interface ManifestFields {
  /** For instance "data convert". */
  readonly command: string;
  /** The options that decide the bytes, with their defaults filled in: no number of threads, no output. */
  readonly options: JsonObject;
  /** In the order in which they were read: what `digestInputs` gives. */
  readonly inputs: readonly ManifestInput[];
  /** Of the tokenizer that lengths or ids were computed with; undefined where none was. */
  readonly tokenizerDigest?: string | undefined;
  /** What was read and written, for instance { rows: 100, kept: 97 }. */
  readonly counts: Readonly<Record<string, number>>;
  /** How many were left out, by reason. */
  readonly dropped?: Readonly<Record<string, number>> | undefined;
  /** What else a reader should know, a sentence each. */
  readonly notes?: readonly string[] | undefined;
}

const FORMAT_VERSION = 1;

/** Where an output's manifest stands. */
export function manifestPath(output: string): string {
  return `${output}.manifest.json`;
}

/**
 * Size and digest of each input. Called before they are read, it tells of a missing one at once.
 *
 * @throws Error that names the file if there is none, or it is a folder or changes meanwhile; the signal's reason.
 */
export async function digestInputs(paths: readonly string[], signal?: AbortSignal): Promise<ManifestInput[]> {
  const inputs: ManifestInput[] = [];
  for (const path of paths) {
    if (await isPipe(path)) {
      inputs.push({ path, bytes: null, sha256: null });
      continue;
    }
    const state = await fileState(path);
    inputs.push({ path, bytes: Number(state.size), sha256: await hashFile(path, state, { signal }) });
  }
  return inputs;
}

/**
 * Writes a manifest beside an output that is finished, at `output` + ".manifest.json". It holds the output's own digest,
 * so that one which is left of an older output can be told. No times: the same run gives the same bytes.
 *
 * @example after writing out.jsonl: writeManifest("out.jsonl", { command: "data sample", options: { seed: "42", count: 10 },
 *   inputs: await digestInputs(["in.jsonl"]), counts: { rows: 100, kept: 10 } })
 * @throws Error if the output cannot be read or the manifest cannot be written; the signal's reason.
 */
export async function writeManifest(output: string, fields: ManifestFields, signal?: AbortSignal): Promise<void> {
  const { command, options, inputs, tokenizerDigest, counts, dropped = {}, notes = [] } = fields;
  const [written] = await digestInputs([output], signal);
  const manifest = {
    format_version: FORMAT_VERSION,
    command,
    options,
    inputs,
    ...(tokenizerDigest !== undefined && { tokenizer_digest: tokenizerDigest }),
    counts,
    // Reasons come in the order in which they were met, which must not show.
    dropped: Object.fromEntries(Object.entries(dropped).sort(([a], [b]) => (a < b ? -1 : 1))),
    ...(notes.length > 0 && { notes }),
    output: { ...written, path: basename(output) },
  };
  await writeAtomically(manifestPath(output), (partial) =>
    writeFile(partial, `${JSON.stringify(manifest, null, 2)}\n`),
  );
}

async function isPipe(path: string): Promise<boolean> {
  if (path === "-") return true;
  const found = await stat(path).catch((error: unknown) => {
    throw describeFileError(error, path);
  });
  return found.isFIFO();
}
