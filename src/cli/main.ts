#!/usr/bin/env node
import { CommanderError } from "commander";
import { createProgram } from "./program.js";
import { errorLine, processTerminal } from "./terminal.js";
import { UsageError } from "./usage-error.js";

const exitCodes = { SIGINT: 130, SIGTERM: 143 } as const;

const ending = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  const end = (): void => {
    // A second one ends the process at once, as it would without this handler.
    process.removeListener(signal, end);
    process.exitCode = exitCodes[signal];
    ending.abort(new Error("Cancelled"));
    process.stdin.destroy();
  };
  process.on(signal, end);
}
// Whoever reads our output has gone, as in "| head -1": nothing is wrong, and nothing is left to do.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  ending.abort(error);
});
process.stderr.on("error", () => undefined);

const verbose = process.argv.includes("--verbose");
let endsWell = false;
const terminal = processTerminal(process, ending.signal, () => {
  endsWell = true;
});
try {
  const code = await createProgram(terminal).run(process.argv);
  if (endsWell) process.exitCode = code;
  else process.exitCode ??= code;
} catch (error) {
  if (ending.signal.aborted) {
    process.exitCode ??= 0;
  } else if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : 2;
  } else {
    process.stderr.write(`${verbose && error instanceof Error ? describeFully(error) : errorLine(error)}\n`);
    process.exitCode = error instanceof UsageError ? 2 : 1;
  }
}

function describeFully(error: Error): string {
  const cause = error.cause instanceof Error ? `\ncaused by ${describeFully(error.cause)}` : "";
  return (error.stack ?? error.message) + cause;
}
