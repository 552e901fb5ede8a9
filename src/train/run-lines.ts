import type { ChildProcess } from "node:child_process";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";

/** How a process ended: with an exit code, by a signal, or it was never started. */
export type ProcessEnd =
  | { readonly kind: "exited"; readonly code: number }
  | { readonly kind: "killed"; readonly signal: NodeJS.Signals }
  | { readonly kind: "not started"; readonly reason: string };

/** Waits for a process's end, after its last line. */
export function endOf(child: ChildProcess): Promise<ProcessEnd> {
  return new Promise((resolve) => {
    child.once("error", (error: NodeJS.ErrnoException) => {
      // An error of a process that runs is one of a signal that could not be sent.
      if (child.pid === undefined)
        resolve({ kind: "not started", reason: startErrors.get(error.code) ?? error.message });
    });
    child.once("close", (code, signal) =>
      resolve(signal === null ? { kind: "exited", code: code ?? 1 } : { kind: "killed", signal }),
    );
  });
}

const startErrors: ReadonlyMap<string | undefined, string> = new Map([
  ["ENOENT", "no such program"],
  ["ENOTDIR", "a part of the path is no folder"],
  ["EACCES", "it may not be run"],
  ["EISDIR", "it is a folder"],
]);

/** Hands on a stream's lines as they come; carriage returns end lines too, as progress bars have them. */
export function onLines(stream: Readable | null, take: (line: string) => void): void {
  if (stream === null) return;
  createInterface({ input: stream, crlfDelay: Number.POSITIVE_INFINITY }).on("line", take);
}
