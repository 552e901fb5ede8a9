import { basename } from "node:path";
import { defaultModel } from "../engine/model.js";
import { isInputError } from "../files/input-error.js";
import { quote } from "../files/quote.js";
import { pathExists } from "../files/regular-file.js";
import { UsageError } from "../files/usage-error.js";
import type { ModelUse } from "../hub/choose-files.js";
import type { PullOptions } from "../hub/pull.js";
import type { AdapterInput } from "../model/adapters.js";
import { parseHubName } from "../model/hub-name.js";
import { findPackaged } from "../model/packaged-models.js";
import { ProgressBar } from "./progress-bar.js";
import { errorLine, note, type Terminal } from "./terminal.js";

/** What nobody has asked for by name is not waited for long. */
const patienceMs = 5_000;

/** Fetches a model: what and how much on standard error, then a bar, or without a terminal a line each tenth. */
export async function pullModel(
  name: string,
  terminal: Terminal,
  options: Pick<PullOptions, "use" | "silenceMs"> = {},
) {
  const { pull } = await import("../hub/pull.js");
  const bar = new ProgressBar(terminal, "Fetching");
  const { env, signal, isErrorTerminal } = terminal;
  let told = 0;
  return await pull(name, {
    ...options,
    env,
    signal,
    onNote: (line) => {
      bar.end();
      note(terminal, line);
    },
    onProgress: ({ doneBytes, totalBytes }) => {
      bar.update(doneBytes, totalBytes);
      const tenths = Math.floor((10 * doneBytes) / totalBytes);
      if (!isErrorTerminal && tenths > told) note(terminal, `Fetched ${10 * tenths} %`);
      told = tenths;
    },
  })
    .catch(refuseName)
    .finally(() => bar.end());
}

/** A name that means nothing is for who typed it to change, as a flag is. */
export function refuseName(error: unknown): never {
  throw isInputError(error) ? new UsageError(error.message) : error;
}

/**
 * The path of what --model names: a model of the hub (hf:…) or one with a name of its own is looked up on the disk, and fetched
 * where it is not there. Any other text is a path already.
 */
export async function modelOnDisk(text: string, terminal: Terminal): Promise<string> {
  if (isHubName(text)) return onDisk(text, terminal, "model");
  if (/[/\\.]/.test(text) || (await pathExists(text))) return text;
  return findPackaged(text) === undefined ? text : onDisk(text, terminal, "model");
}

/** modelOnDisk() for what is no model of the engine: names of the hub are those that begin with hf: or its address. */
export async function otherOnDisk(text: string, terminal: Terminal, use: ModelUse): Promise<string> {
  return isHubName(text) ? onDisk(text, terminal, use) : text;
}

/** modelOnDisk() for adapters. */
export async function adaptersOnDisk(
  adapters: readonly AdapterInput[],
  terminal: Terminal,
): Promise<readonly AdapterInput[]> {
  const found: AdapterInput[] = [];
  for (const one of adapters) found.push({ ...one, path: await otherOnDisk(one.path, terminal, "adapter") });
  return found;
}

/** Which model is the default one, and why. */
export function defaultName(env: Terminal["env"]): string {
  const { path, reason } = defaultModel(env);
  return `${basename(path)} (${reason})`;
}

/** The default model's path. What it lacks is fetched first; where that fails, one line says why, and the embedded model is used. */
export async function fetchDefaultModel(terminal: Terminal): Promise<string> {
  const { missing } = defaultModel(terminal.env);
  try {
    if (missing !== undefined) await pullModel(missing, terminal, { silenceMs: patienceMs });
  } catch (error) {
    terminal.signal.throwIfAborted();
    note(terminal, errorLine(error));
  }
  note(terminal, `No model is named: ${defaultName(terminal.env)} is used`);
  return defaultModel(terminal.env).path;
}

/** Whether a text is nothing but a name of the hub, be it a right one or not. */
function isHubName(text: string): boolean {
  return /^hf:/i.test(text) || parseHubName(text)?.isExplicit === true;
}

async function onDisk(name: string, terminal: Terminal, use: ModelUse): Promise<string> {
  const { findPulled } = await import("../hub/pull.js");
  const found = await findPulled(name, terminal.env, use);
  if (found !== undefined) return found;
  note(terminal, `${quote(name)} is not on the disk yet`);
  return (await pullModel(name, terminal, { use })).path;
}
