import { PassThrough, Writable } from "node:stream";
import pc from "picocolors";
import { createProgram } from "../src/cli/program.js";

export interface CliOutcome {
  /** Undefined where the command threw. */
  readonly code: number | undefined;
  readonly error: Error | undefined;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command in this process, with no terminal and an environment of its own. */
export async function runCli(
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
  signal: AbortSignal = new AbortController().signal,
): Promise<CliOutcome> {
  const texts = { stdout: "", stderr: "" };
  const into = (name: keyof typeof texts) =>
    new Writable({
      write(chunk, _encoding, done) {
        texts[name] += String(chunk);
        done();
      },
    });
  const colors = pc.createColors(false);
  const terminal = {
    stdin: new PassThrough().end(),
    stdout: into("stdout"),
    stderr: into("stderr"),
    isErrorTerminal: false,
    colors,
    errorColors: colors,
    signal,
    env,
    endWell: () => undefined,
    onHangup: () => ({ [Symbol.dispose]: () => undefined }),
  };
  try {
    const code = await createProgram(terminal).run(["node", "block-attention", ...args]);
    return { code, error: undefined, ...texts };
  } catch (error) {
    return { code: undefined, error: error as Error, ...texts };
  }
}
