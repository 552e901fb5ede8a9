import type { FromChild } from "./messages.js";

// The engine's process: spawnEngine() starts this file. As little as can be is imported before its signals are handled.

// Ctrl-C and a service manager's stop go to the whole process group: the server decides, and says `close`.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => undefined);

// Never outlives the server. Not exit(): native threads may be computing, and its handlers would tear down what they use.
const end = (): void => {
  process.kill(process.pid, "SIGKILL");
};
process.on("disconnect", end);

if (process.send === undefined) {
  console.error("Cannot run the engine's process: it is started by the server, not by itself");
  process.exitCode = 2;
} else if (!process.connected) {
  end();
} else {
  try {
    const { serveCalls } = await import("./serve-calls.js");
    serveCalls();
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    const message = `Cannot start the engine's process: ${reason.split("\n", 1)[0]}`;
    process.send({ kind: "load-failed", message } satisfies FromChild);
  }
}
