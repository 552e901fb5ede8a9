// A thread that does work on data: see mapInOrder().
import { type MessagePort, parentPort, workerData } from "node:worker_threads";
import type { PackSettings } from "./pack-work.js";
import type { ConvertSettings } from "./rag/convert-work.js";
import type { RagFileSettings } from "./raw/rag-file-work.js";
import type { ValidateSettings } from "./raw/validate-work.js";
import { sentRowsWork } from "./row-work.js";
import type { Work } from "./serve-work.js";
import { serveWork } from "./serve-work.js";

/** Work on rows, whose bytes are sent. */
export type RowThreadWork =
  | ({ readonly kind: "rag file" } & RagFileSettings)
  | ({ readonly kind: "convert" } & ConvertSettings)
  | ({ readonly kind: "validate" } & ValidateSettings);

/** Which work a thread does; plain data. */
export type ThreadWork = RowThreadWork | ({ readonly kind: "pack" | "tulu3" } & PackSettings);

/** Each loads its own code alone. */
async function workOf(settings: ThreadWork): Promise<Work<never, unknown>> {
  switch (settings.kind) {
    case "rag file":
      return sentRowsWork((await import("./raw/rag-file-work.js")).ragFileWork(settings));
    case "convert":
      return sentRowsWork(await (await import("./rag/convert-work.js")).convertWork(settings));
    case "validate":
      return sentRowsWork((await import("./raw/validate-work.js")).validateWork(settings));
    case "pack":
      return await (await import("./pack-work.js")).packWork(settings);
    case "tulu3":
      return await (await import("./raw/tulu3-work.js")).tulu3Work(settings);
    default:
      return settings satisfies never;
  }
}

serveWork(parentPort as MessagePort, workOf(workerData as ThreadWork));
