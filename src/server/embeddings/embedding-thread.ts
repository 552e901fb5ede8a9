// A thread that computes embeddings: onnxruntime would keep the server waiting. See Embedder.
import { type MessagePort, parentPort, workerData } from "node:worker_threads";
import { type Embedded, loadEncoder, type RefusedText, type Runtime } from "./encoder.js";

export interface EmbeddingThreadData {
  readonly folder: string;
  readonly numThreads: number;
}

export interface EmbeddingRequest {
  readonly number: number;
  readonly texts: readonly string[];
}

export type EmbeddingAnswer =
  | { readonly kind: "loaded"; readonly name: string }
  | { readonly kind: "failed"; readonly error: string }
  | { readonly kind: "embedded"; readonly number: number; readonly result: Embedded | RefusedText };

const runtimeName = "onnxruntime-node";

async function runtimeOf(): Promise<Runtime> {
  try {
    return (await import(runtimeName)) as Runtime;
  } catch (error) {
    const isMissing = (error as NodeJS.ErrnoException).code === "ERR_MODULE_NOT_FOUND";
    const why = isMissing ? "is missing" : `cannot be loaded (${(error as Error).message.split("\n")[0]})`;
    throw new Error(`Cannot embed: the package "${runtimeName}" ${why}, wanted "npm install ${runtimeName}"`);
  }
}

async function serve(port: MessagePort, { folder, numThreads }: EmbeddingThreadData): Promise<void> {
  const post = (answer: EmbeddingAnswer) => port.postMessage(answer);
  try {
    const encoder = await loadEncoder(folder, await runtimeOf(), numThreads);
    let last = Promise.resolve();
    port.on("message", ({ number, texts }: EmbeddingRequest) => {
      // In turn; what fails ends the thread.
      last = last.then(async () => post({ kind: "embedded", number, result: await encoder.embed(texts) }));
      last.catch((error: unknown) =>
        queueMicrotask(() => {
          throw error;
        }),
      );
    });
    post({ kind: "loaded", name: encoder.name });
  } catch (error) {
    post({ kind: "failed", error: error instanceof Error ? error.message : String(error) });
  }
}

await serve(parentPort as MessagePort, workerData as EmbeddingThreadData);
