import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

/**
 * The folder of the Python trainer: the same way from src/ and from dist/.
 *
 * @throws Error if the package was installed without it.
 */
export function pythonFolder(): string {
  const path = fileURLToPath(new URL("../../python", import.meta.url));
  if (!existsSync(path)) throw new Error(`Cannot find the trainer: "${path}" does not exist`);
  return path;
}
