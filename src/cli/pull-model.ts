import { isInputError } from "../files/input-error.js";
import { quote } from "../files/quote.js";
import { pathExists } from "../files/regular-file.js";
import { UsageError } from "../files/usage-error.js";
import type { ModelUse } from "../hub/choose-files.js";
import type { AdapterInput } from "../model/adapters.js";
import { parseHubName } from "../model/hub-name.js";
import { ProgressBar } from "./progress-bar.js";
import { note, type Terminal } from "./terminal.js";

/** Fetches a model: what and how much on standard error, then a bar, or without a terminal a line each tenth. */
export async function pullModel(name: string, terminal: Terminal, use?: ModelUse) {
  const { pull } = await import("../hub/pull.js");
  const bar = new ProgressBar(terminal, "Fetching");
  const { env, signal, isErrorTerminal } = terminal;
  let told = 0;
  return await pull(name, {
    use,
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
  const { findPackaged } = await import("../hub/packaged-models.js");
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

/** Whether a text is nothing but a name of the hub, be it a right one or not. */
function isHubName(text: string): boolean {
  return /^hf:/i.test(text) || parseHubName(text)?.isExplicit === true;
}

async function onDisk(name: string, terminal: Terminal, use: ModelUse): Promise<string> {
  const { findPulled } = await import("../hub/pull.js");
  const found = await findPulled(name, terminal.env, use);
  if (found !== undefined) return found;
  note(terminal, `${quote(name)} is not on the disk yet`);
  return (await pullModel(name, terminal, use)).path;
}
