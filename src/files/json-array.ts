import type { Readable } from "node:stream";
import { BoundedPart, type InputPart, readChunks } from "./bounded-part.js";

const [quoteByte, backslash, comma] = [0x22, 0x5c, 0x2c];
const [openList, closeList, openObject, closeObject] = [0x5b, 0x5d, 0x7b, 0x7d];
const whiteSpace: ReadonlySet<number> = new Set([0x20, 0x09, 0x0a, 0x0d]);
const byteOrderMark = [0xef, 0xbb, 0xbf];

/**
 * Reads the elements of a JSON array as they come: one element is in memory at a time, and no more than `maxElementBytes` of it.
 * Where elements end is told by brackets and strings alone: what an element holds is not looked at.
 *
 * @param what the stream's origin for errors, for instance a quoted path.
 * @returns the elements' bytes.
 * @throws Error if the text is no array, ends before the array does, or goes on after it; if the stream fails; the signal's
 * reason.
 */
export async function* readArrayBytes(
  stream: Readable,
  what: string,
  signal: AbortSignal,
  maxElementBytes: number,
): AsyncGenerator<InputPart, void> {
  let place: "before" | "inside" | "after" = "before";
  let [depth, inString, isEscaped] = [0, false, false];
  const part = new BoundedPart("element", maxElementBytes);
  let number = 0;
  let numBytes = 0;
  const finish = (isLast: boolean): InputPart | undefined => {
    // "[]" has no element; "[1,]" has one that is empty.
    if (isLast && number === 0 && part.holdsOnly(whiteSpace)) return undefined;
    number += 1;
    return part.finish(number);
  };
  for await (const data of readChunks(stream, signal)) {
    let start = 0;
    for (let i = 0; i < data.length; i++) {
      const byte = data[i] as number;
      if (place !== "inside") {
        if (place === "before" && byte === openList) [place, start] = ["inside", i + 1];
        else if (place === "before" && byte === byteOrderMark[numBytes + i]) continue;
        else if (!whiteSpace.has(byte)) throw new Error(`Cannot read ${what}: ${placeErrors[place]}`);
        continue;
      }
      if (inString) {
        // On to the next quote: an odd number of backslashes before it make it one of the string's own.
        const found = data.indexOf(quoteByte, i);
        const end = found < 0 ? data.length : found;
        let numBackslashes = 0;
        while (end - numBackslashes > i && data[end - numBackslashes - 1] === backslash) numBackslashes += 1;
        if (end - numBackslashes === i && isEscaped) numBackslashes += 1;
        isEscaped = numBackslashes % 2 === 1;
        i = end;
        if (found < 0) continue;
        inString = isEscaped;
        isEscaped = false;
        continue;
      }
      if (byte === quoteByte) inString = true;
      else if (byte === openObject || byte === openList) depth += 1;
      else if (depth > 0) {
        if (byte === closeObject || byte === closeList) depth -= 1;
      } else if (byte === comma || byte === closeList) {
        part.take(data.subarray(start, i));
        start = i + 1;
        const isLast = byte === closeList;
        if (isLast) place = "after";
        const element = finish(isLast);
        if (element !== undefined) yield element;
      }
    }
    if (place === "inside") part.take(data.subarray(start));
    numBytes += data.length;
  }
  if (place === "before") throw new Error(`Cannot read ${what}: ${placeErrors.before}`);
  if (place === "inside") throw new Error(`Cannot read ${what}: it ends inside its array, in element ${number + 1}`);
}

const placeErrors = { before: "it is no JSON array", after: "something follows its array" } as const;
