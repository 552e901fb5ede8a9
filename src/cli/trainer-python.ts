import { join } from "node:path";
import { formatBytes } from "../files/format-bytes.js";
import { someWords } from "../files/settings.js";
import { thisUsersCacheDir } from "../files/user-cache-dir.js";
import { trainerPython } from "../train/python-environment.js";
import { pythonFolder } from "../train/python-folder.js";
import { flag } from "./command.js";
import { StatusLine } from "./progress-bar.js";
import { note, type Terminal } from "./terminal.js";

const pythonVariable = "BLOCK_ATTENTION_PYTHON";

export const pythonFlag = flag(
  "<path>",
  `a Python that has the trainer's packages (default: ${pythonVariable}, or an environment made on first use)`,
  someWords,
);

/**
 * The Python that a command runs on, and the folder of the project's package for it.
 *
 * @param named what --python says.
 * @param extraPackages what is needed beside the trainer's own packages.
 * @throws Error of one line if there is none that will do and none can be made; the signal's reason.
 */
export async function commandPython(
  named: string | undefined,
  terminal: Terminal,
  extraPackages: readonly string[] = [],
): Promise<{ readonly python: string; readonly folder: string }> {
  const folder = pythonFolder();
  const { env } = terminal;
  const fromEnvironment = env[pythonVariable] ? { path: env[pythonVariable], by: pythonVariable } : undefined;
  const status = new StatusLine(terminal, () => performance.now());
  const python = await trainerPython({
    named: named === undefined ? fromEnvironment : { path: named, by: "--python" },
    extraPackages,
    cacheDir: join(thisUsersCacheDir(env), "python"),
    pythonFolder: folder,
    env,
    say: (line) => {
      status.wipe();
      note(terminal, line);
    },
    onProgress: ({ stage, packages, of, bytes }) => {
      const onDisk = `${formatBytes(bytes)} on disk`;
      if (stage === "downloading") status.show("Downloading Python packages", `${packages} of ${of}, ${onDisk}`);
      else status.show("Installing Python packages", `${of}, ${onDisk}`);
    },
    signal: terminal.signal,
  }).finally(() => status.end());
  return { python, folder };
}
