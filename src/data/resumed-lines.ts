import { type FileHandle, open, readFile, rename, rm, writeFile } from "node:fs/promises";
import type { JsonObject } from "../files/bounded-json.js";
import { writeAtomically } from "../files/outputs.js";
import { describeWriteError, undefinedIfMissing } from "../files/regular-file.js";

const newline = 0x0a;
const chunkBytes = 2 ** 20;

/**
 * A file of lines that is written in pieces over several runs: what an interrupted run left is gone on with, if it was
 * written under equal settings. They stand beside it, at `path` + ".json".
 */
export class ResumedLines implements AsyncDisposable {
  #isOpen = true;
  #isEmpty: boolean;

  private constructor(
    readonly path: string,
    private readonly file: FileHandle,
    /** Lines of whole pieces that an earlier run left. */
    readonly numKept: number,
  ) {
    this.#isEmpty = numKept === 0;
  }

  /**
   * Opens the file: as it was left, but for the piece that was not whole; empty under other settings.
   *
   * @param settings what decides the lines.
   * @throws Error if it cannot be read or written.
   */
  static async open(path: string, settings: JsonObject, linesPerPiece: number): Promise<ResumedLines> {
    const note = `${JSON.stringify(settings)}\n`;
    try {
      const isOurs = (await readFile(`${path}.json`, "utf8").catch(undefinedIfMissing)) === note;
      if (!isOurs) {
        await rm(path, { force: true });
        await writeAtomically(`${path}.json`, (partial) => writeFile(partial, note));
      }
      const file = await open(path, "a+");
      try {
        const { numLines, numBytes } = await wholePieces(file, linesPerPiece);
        await file.truncate(numBytes);
        return new ResumedLines(path, file, numLines);
      } catch (error) {
        await file.close();
        throw error;
      }
    } catch (error) {
      throw describeWriteError(error, path);
    }
  }

  /** Writes a piece. @throws Error that names the path, for instance on a full disk. */
  async append(text: string): Promise<void> {
    this.#isEmpty = false;
    await this.file.appendFile(text).catch((error: unknown) => {
      throw describeWriteError(error, this.path);
    });
  }

  /** Puts what was written on the disk. @throws Error that names the path. */
  async sync(): Promise<void> {
    await this.file.sync().catch((error: unknown) => {
      throw describeWriteError(error, this.path);
    });
  }

  /**
   * Puts the whole file at its place; undefined: takes it away.
   *
   * @throws Error that names the place.
   */
  async finish(place: string | undefined): Promise<void> {
    await this.#close();
    if (place === undefined) await rm(this.path, { force: true });
    else {
      await rename(this.path, place).catch((error: unknown) => {
        throw describeWriteError(error, place);
      });
    }
    await rm(`${this.path}.json`, { force: true });
  }

  /** What was written stays for another run. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#isOpen) return;
    await this.#close();
    if (this.#isEmpty) await this.finish(undefined);
  }

  async #close(): Promise<void> {
    if (this.#isOpen) await this.file.close();
    this.#isOpen = false;
  }
}

async function wholePieces(file: FileHandle, linesPerPiece: number): Promise<{ numLines: number; numBytes: number }> {
  const chunk = Buffer.alloc(chunkBytes);
  let [lines, position] = [0, 0];
  let whole = { numLines: 0, numBytes: 0 };
  for (;;) {
    const { bytesRead } = await file.read(chunk, 0, chunk.length, position);
    if (bytesRead === 0) return whole;
    const bytes = chunk.subarray(0, bytesRead);
    for (let end = bytes.indexOf(newline); end >= 0; end = bytes.indexOf(newline, end + 1)) {
      lines += 1;
      if (lines % linesPerPiece === 0) whole = { numLines: lines, numBytes: position + end + 1 };
    }
    position += bytesRead;
  }
}
