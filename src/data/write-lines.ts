import { createWriteStream } from "node:fs";
import { finished } from "node:stream/promises";
import { describeWriteError } from "./atomic-output.js";

/** Writes texts to a file one after another, waiting for a slow disk. @throws Error that names the path; what `texts` throws. */
export async function writeTexts(path: string, texts: AsyncIterable<string>): Promise<void> {
  const stream = createWriteStream(path);
  // A write that fails is told by the stream's end, wherever it happens.
  const ended = finished(stream);
  ended.catch(() => undefined);
  try {
    for await (const text of texts) {
      if (text === "" || stream.write(text)) continue;
      await Promise.race([new Promise<void>((resolve) => stream.once("drain", () => resolve())), ended]);
    }
    stream.end();
    await ended;
  } catch (error) {
    stream.destroy();
    throw describeWriteError(error, path);
  }
}
