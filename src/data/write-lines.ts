import { createWriteStream } from "node:fs";
import { dirname } from "node:path";
import { finished } from "node:stream/promises";
import { makeFolder } from "../files/outputs.js";
import { describeWriteError } from "../files/regular-file.js";

/** Small texts are written together, in bytes. */
const pieceBytes = 2 ** 18;

/**
 * Writes texts, or their UTF-8, to a file one after another, waiting for a slow disk.
 *
 * @throws Error that names the path; what `texts` throws.
 */
export async function writeTexts(path: string, texts: AsyncIterable<string | Uint8Array>): Promise<void> {
  await makeFolder(dirname(path));
  const stream = createWriteStream(path);
  // A write that fails is told by the stream's end, wherever it happens.
  const ended = finished(stream);
  ended.catch(() => undefined);
  let [pieces, size]: [Uint8Array[], number] = [[], 0];
  const flush = async (): Promise<void> => {
    const bytes = Buffer.concat(pieces, size);
    [pieces, size] = [[], 0];
    if (bytes.length === 0 || stream.write(bytes)) return;
    await Promise.race([new Promise<void>((resolve) => stream.once("drain", () => resolve())), ended]);
  };
  try {
    for await (const text of texts) {
      const bytes = typeof text === "string" ? Buffer.from(text) : text;
      pieces.push(bytes);
      size += bytes.length;
      if (size >= pieceBytes) await flush();
    }
    await flush();
    stream.end();
    await ended;
  } catch (error) {
    stream.destroy();
    throw describeWriteError(error, path);
  }
}
