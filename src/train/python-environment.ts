import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parseJson } from "../files/bounded-json.js";
import { quote } from "../files/quote.js";
import { endOf, onLines, type ProcessEnd } from "./run-lines.js";

/** The oldest Python that the trainer runs on: `requires-python` of python/pyproject.toml. */
const oldestPython: readonly [number, number] = [3, 11];

export interface TrainerPythonOptions {
  /** A Python that has the trainer's packages, and who named it; undefined: an environment is made. */
  readonly named: { readonly path: string; readonly by: string } | undefined;
  /** Packages that are needed beside the trainer's own. */
  readonly extraPackages: readonly string[];
  /** Where environments are kept. */
  readonly cacheDir: string;
  /** The folder that holds requirements.in, requirements.txt and make_environment.py. */
  readonly pythonFolder: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** One line for a person. */
  readonly say: (line: string) => void;
  /** About once a second while packages are installed. */
  readonly onProgress: (progress: InstallProgress) => void;
  readonly signal: AbortSignal;
}

/** How far the installation of an environment is. */
export interface InstallProgress {
  readonly stage: "downloading" | "installing";
  /** Found so far, of all. */
  readonly packages: number;
  readonly of: number;
  /** On disk, of downloads and of what is installed. */
  readonly bytes: number;
}

/**
 * A Python that has the trainer's packages: the named one, or an environment of our own in the cache folder, made on first use
 * from requirements.txt and kept under its digest.
 *
 * @returns the interpreter's path.
 * @throws Error of one line: no Python, one that is too old or lacks packages, no venv, no network, a full disk; the signal's
 * reason.
 */
export async function trainerPython(options: TrainerPythonOptions): Promise<string> {
  const { named, pythonFolder, extraPackages } = options;
  if (named === undefined) {
    if (extraPackages.length > 0) {
      throw new Error(
        `Cannot make the Python environment: the settings need ${extraPackages.join(", ")}, which it lacks; name a Python that has all with --python`,
      );
    }
    return makeEnvironment(await findPython(options), options);
  }
  const by = `${quote(named.path)} of ${named.by}`;
  const packages = packageNames(await readFile(join(pythonFolder, "requirements.in"), "utf8"));
  const found = await askPython(named.path, [...packages, ...extraPackages], options);
  if (found.kind === "unusable") throw new Error(`Cannot use Python ${by}: ${found.reason}`);
  if (isTooOld(found.version)) {
    throw new Error(`Cannot use Python ${by}: its version is ${found.version.join(".")}, ${wantedVersion} is wanted`);
  }
  if (found.missing.length > 0) {
    throw new Error(
      `Cannot use Python ${by}: it lacks ${found.missing.join(", ")}, ${quote(join(pythonFolder, "requirements.in"))} names all that is wanted`,
    );
  }
  return named.path;
}

const wantedVersion = `${oldestPython.join(".")} or newer`;

function isTooOld([major, minor]: readonly [number, number]): boolean {
  return major < oldestPython[0] || (major === oldestPython[0] && minor < oldestPython[1]);
}

/** The packages that a file of requirements pins. */
function packageNames(requirements: string): string[] {
  return [...requirements.matchAll(/^\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*[=<>~!]=/gm)].map(
    ([, name]) => name as string,
  );
}

type FoundPython =
  | { readonly kind: "usable"; readonly version: readonly [number, number]; readonly missing: readonly string[] }
  | { readonly kind: "unusable"; readonly reason: string };

/** In any Python from 3.8 on; importing the packages would take seconds. */
const question = `
import importlib.metadata, json, sys
def lacks(name):
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return True
print(json.dumps({"version": sys.version_info[:2], "missing": [n for n in sys.argv[1:] if lacks(n)]}))
`;

async function askPython(
  path: string,
  packages: readonly string[],
  { env, signal }: TrainerPythonOptions,
): Promise<FoundPython> {
  signal.throwIfAborted();
  const child = spawn(path, ["-c", question, ...packages], {
    env,
    stdio: ["ignore", "pipe", "pipe"],
    // spawn()'s own timeout is never cleared where nothing can be started: it would hold the process until it is over.
    signal: AbortSignal.timeout(answerMs),
    killSignal: "SIGKILL",
  });
  const lines: string[] = [];
  const errors: string[] = [];
  onLines(child.stdout, (line) => lines.push(line));
  onLines(child.stderr, (line) => errors.push(line));
  const end = await endOf(child);
  signal.throwIfAborted();
  if (end.kind !== "exited" || end.code !== 0) return { kind: "unusable", reason: describeEnd(end, errors.at(-1)) };
  try {
    const { version, missing } = parseJson(lines.at(-1) ?? "", "Python's answer") as {
      version: [number, number];
      missing: string[];
    };
    return { kind: "usable", version: [Number(version[0]), Number(version[1])], missing };
  } catch {
    return { kind: "unusable", reason: `it answers ${quote(lines.at(-1) ?? "", 60)}, which no Python does` };
  }
}

/** A Python on a slow disk takes seconds to start. */
const answerMs = 60_000;

function describeEnd(end: ProcessEnd, lastLine: string | undefined): string {
  const said = lastLine === undefined ? "" : `, its last line is ${quote(lastLine, 120)}`;
  switch (end.kind) {
    case "not started":
      return end.reason;
    case "killed":
      return `it ended with ${end.signal}${said}`;
    case "exited":
      return `it ended with ${end.code}${said}`;
    default:
      return end satisfies never;
  }
}

/** The first Python of the search path that is new enough to make an environment with. */
async function findPython(options: TrainerPythonOptions): Promise<string> {
  const names = ["python3", "python3.14", "python3.13", "python3.12", "python3.11", "python"];
  const tooOld: string[] = [];
  for (const name of names) {
    const found = await askPython(name, [], options);
    if (found.kind === "unusable") continue;
    if (!isTooOld(found.version)) return name;
    tooOld.push(`${quote(name)} is ${found.version.join(".")}`);
  }
  const reason = tooOld[0] === undefined ? 'there is neither "python3" nor "python"' : tooOld[0];
  throw new Error(
    `Cannot make the Python environment: ${reason}, Python ${wantedVersion} is wanted; install it, or name one with --python`,
  );
}

async function makeEnvironment(python: string, options: TrainerPythonOptions): Promise<string> {
  const { cacheDir, pythonFolder, env, signal } = options;
  const child = spawn(
    python,
    [
      join(pythonFolder, "make_environment.py"),
      ...["--cache", cacheDir, "--name", "trainer"],
      ...["--requirements", join(pythonFolder, "requirements.txt")],
    ],
    { env, stdio: ["ignore", "pipe", "pipe"] },
  );
  const stop = (): boolean => child.kill("SIGTERM");
  signal.addEventListener("abort", stop, { once: true });
  try {
    let made: string | undefined;
    let error: string | undefined;
    onLines(child.stdout, (line) => {
      const told = parseTold(line);
      if (told.say !== undefined) options.say(told.say);
      if (told.progress !== undefined) options.onProgress(told.progress);
      made = told.python ?? made;
      error = told.error ?? error;
    });
    let lastLine: string | undefined;
    onLines(child.stderr, (line) => {
      if (line.trim() !== "") lastLine = line;
      options.say(line);
    });
    const end = await endOf(child);
    signal.throwIfAborted();
    if (error !== undefined) throw new Error(error);
    if (made === undefined) throw new Error(`Cannot make the Python environment: ${describeEnd(end, lastLine)}`);
    return made;
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

interface Told {
  readonly say?: string;
  readonly progress?: InstallProgress;
  readonly python?: string;
  readonly error?: string;
}

function parseTold(line: string): Told {
  try {
    return parseJson(line, "make_environment.py's line") as Told;
  } catch {
    return { say: line };
  }
}
