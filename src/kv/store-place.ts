import { statfs } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { z } from "zod";
import { quote } from "../files/quote.js";
import { bytes } from "../files/settings.js";
import { BlockFolder } from "./block-folder.js";

/** Of a file system, where no cap is given. */
const defaultShare = 1 / 10;

interface StorePlace {
  readonly path: string;
  readonly capBytes: number | undefined;
}

/** @returns undefined for what is no place. */
function parseStorePlace(text: string): StorePlace | undefined {
  const [, path = "", cap] = /^(?:file:(?:\/\/)?)?([^?]+)(?:\?cap=([^&?]+))?$/.exec(text) ?? [];
  if (path === "" || /^[a-z][a-z0-9+.-]+:\/\//i.test(path)) return undefined;
  const { schema, fromText } = bytes(1);
  const capBytes = cap === undefined ? undefined : schema.safeParse(fromText(cap)).data;
  return cap !== undefined && capBytes === undefined ? undefined : { path, capBytes };
}

const wanted = "a folder, and its cap where it has one: ./blocks?cap=20GB";
export const storePlaceField = {
  schema: z
    .string()
    .max(4096)
    .refine((text) => parseStorePlace(text) !== undefined, `wanted ${wanted}`)
    .optional(),
  wanted,
  examples: "./blocks?cap=20GB",
};

/**
 * Opens the folder that a checked place names.
 *
 * @param onWarning told where this process may not write into it.
 * @throws Error for a folder that is none, or cannot be made.
 */
export async function openStorePlace(text: string, onWarning?: (warning: string) => void): Promise<BlockFolder> {
  const { path, capBytes } = parseStorePlace(text) as StorePlace;
  const folder = await BlockFolder.open(path, capBytes ?? (await shareOf(path)));
  if (!folder.canWrite) {
    onWarning?.(`Blocks are read from ${quote(path)}, and new ones are not kept there. ${folder.reason}`);
  }
  return folder;
}

/** The folder that a checked place names, to look at. @throws Error where there is none. */
export function openStoreToRead(text: string): Promise<BlockFolder> {
  return BlockFolder.openToRead((parseStorePlace(text) as StorePlace).path);
}

/** The folder that a place names, if it does. */
export function storeFolder(text: string): string | undefined {
  return parseStorePlace(text)?.path;
}

async function shareOf(path: string): Promise<number> {
  // Of a folder that is to be made, the nearest one above it that is there.
  for (let at = resolve(path); ; at = dirname(at)) {
    const found = await statfs(at).catch(() => undefined);
    if (found) return Math.floor(found.bsize * found.blocks * defaultShare);
    if (at === dirname(at)) throw new Error(`Cannot use the store ${quote(path)}: its file system tells no size`);
  }
}
