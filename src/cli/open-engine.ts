import { Engine } from "../engine/engine.js";
import { type EngineSettings, engineSettingsOf } from "../engine/engine-options.js";
import type { LocalEngine } from "../engine/local-engine.js";
import { formatBytes } from "../files/format-bytes.js";
import { ProgressBar } from "./progress-bar.js";
import { defaultName } from "./pull-model.js";
import { note, type Terminal } from "./terminal.js";

/** Loads the engine that a command's flags ask for: the estimate first, progress on a terminal, warnings as they come. */
export async function openEngine(flags: EngineSettings, terminal: Terminal): Promise<LocalEngine> {
  const bar = new ProgressBar(terminal, "Loading weights");
  try {
    return await Engine.load({
      ...engineSettingsOf(flags),
      signal: terminal.signal,
      onEstimate: ({ weightBytes }) => {
        note(terminal, `Loading ${flags.model ?? defaultName(terminal.env)}: weights take ${formatBytes(weightBytes)}`);
      },
      onProgress: ({ loadedBytes, totalBytes }) => bar.update(loadedBytes, totalBytes),
      onWarning: (warning) => note(terminal, `${terminal.errorColors.yellow("Warning")}: ${warning}`),
    });
  } finally {
    bar.end();
  }
}
