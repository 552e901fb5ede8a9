// A thread that cuts conversations: see tulu3.ts.
import { type MessagePort, parentPort, workerData } from "node:worker_threads";
import type { PackSettings } from "../pack-work.js";
import { serveWork } from "../serve-work.js";
import { tulu3Work } from "./tulu3-work.js";

serveWork(parentPort as MessagePort, tulu3Work(workerData as PackSettings));
