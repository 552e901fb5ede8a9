import { readFile, rm, writeFile } from "node:fs/promises";
import { describeWriteError } from "../files/outputs.js";
import { quote } from "../files/quote.js";

/**
 * Holds a lock file for this process; what a process that is gone left is taken over.
 *
 * @param what is done under it, for the error: for instance `write "a.jsonl"`.
 * @throws Error if another process holds it, or it cannot be written.
 */
export async function holdLock(path: string, what: string): Promise<AsyncDisposable> {
  // A number may come again, in a container at each start; with the time it does not.
  const own = `${process.pid} ${Math.round(performance.timeOrigin)}`;
  for (let attempt = 0; ; attempt++) {
    try {
      await writeFile(path, `${own}\n`, { flag: "wx" });
      return { [Symbol.asyncDispose]: () => rm(path, { force: true }) };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST" || attempt > 2) throw describeWriteError(error, path);
      const holder = (await readFile(path, "utf8").catch(() => "")).trim();
      const pid = Number(holder.split(" ")[0]);
      if (pid > 0 && (pid === process.pid ? holder === own : isAlive(pid))) {
        throw new Error(`Cannot ${what}: process ${pid} does; if that is none of ours, remove ${quote(path)}`);
      }
      await rm(path, { force: true });
    }
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
