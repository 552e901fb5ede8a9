// The Python environments under the user's cache folder that checks run in: python/make_environment.py makes them.
import { spawn, spawnSync } from "node:child_process";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { thisUsersCacheDir } from "../dist/files/user-cache-dir.js";

export const pythonFolder = join(dirname(dirname(fileURLToPath(import.meta.url))), "python");
export const cacheFolder = join(thisUsersCacheDir(), "python");

/**
 * The interpreter of an environment, made where there is none; undefined, once the reason is printed, where it cannot be made,
 * or is not to be.
 */
export async function pythonEnvironment(name, requirements, { ifThere }) {
  const python = ["python3", "python"].find((file) => spawnSync(file, ["--version"], { stdio: "ignore" }).status === 0);
  if (python === undefined) {
    console.error('Cannot make a Python environment: there is neither "python3" nor "python"');
    return undefined;
  }
  const args = ["--cache", cacheFolder, "--name", name, "--requirements", join(pythonFolder, requirements)];
  const making = [join(pythonFolder, "make_environment.py"), ...args, ...(ifThere ? ["--if-there"] : [])];
  const { stdout } = spawn(python, making, { stdio: ["ignore", "pipe", "inherit"] });
  let made;
  let toldMs = Date.now();
  for await (const line of createInterface({ input: stdout })) {
    const { say, progress, error, python: path } = JSON.parse(line);
    if (say ?? error) console.error(say ?? error);
    if (progress && Date.now() - toldMs > 20_000) {
      toldMs = Date.now();
      const { stage, packages, of, bytes } = progress;
      console.error(`${stage}: ${packages} of ${of} packages, ${(bytes / 1e9).toFixed(1)} GB on disk`);
    }
    made ??= path;
  }
  return made;
}
