// A thread that packs rows: see pack.ts.
import { type MessagePort, parentPort, workerData } from "node:worker_threads";
import { type PackSettings, packWork } from "./pack-work.js";
import { serveWork } from "./serve-work.js";

serveWork(parentPort as MessagePort, packWork(workerData as PackSettings));
