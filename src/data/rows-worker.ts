// A thread that does work on rows: see map-rows.ts.
import { type MessagePort, parentPort, workerData } from "node:worker_threads";
import type { ConvertSettings } from "./rag/convert-work.js";
import type { RagFileSettings } from "./raw/rag-file-work.js";
import type { ValidateSettings } from "./raw/validate-work.js";
import { type RowWork, sentRowsWork } from "./row-work.js";
import { serveWork } from "./serve-work.js";

/** Which work a thread does; plain data. */
export type RowWorkSettings =
  | ({ readonly kind: "rag file" } & RagFileSettings)
  | ({ readonly kind: "convert" } & ConvertSettings)
  | ({ readonly kind: "validate" } & ValidateSettings);

/** Each loads its own code alone. */
async function workOf(settings: RowWorkSettings): Promise<RowWork<unknown>> {
  switch (settings.kind) {
    case "rag file":
      return (await import("./raw/rag-file-work.js")).ragFileWork(settings);
    case "convert":
      return await (await import("./rag/convert-work.js")).convertWork(settings);
    case "validate":
      return (await import("./raw/validate-work.js")).validateWork(settings);
    default:
      return settings satisfies never;
  }
}

const work = workOf(workerData as RowWorkSettings).then(sentRowsWork);
serveWork(parentPort as MessagePort, work);
