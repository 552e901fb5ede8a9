// A thread that makes questions: see synth-file.ts.
import { type MessagePort, parentPort, workerData } from "node:worker_threads";
import { serveWork } from "../serve-work.js";
import { type SynthSettings, synthWork } from "./synth-work.js";

serveWork(parentPort as MessagePort, synthWork(workerData as SynthSettings));
