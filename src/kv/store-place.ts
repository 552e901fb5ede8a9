import { statfs } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { z } from "zod";
import { quote, withoutPassword } from "../files/quote.js";
import { bytes } from "../files/settings.js";
import { BlockKeys, keyedPlace, sealedFormat } from "./block-cipher.js";
import { BlockFolder, type BlockPlace } from "./block-folder.js";
import type { BlockFileFormat } from "./block-format.js";
import type { BlockMemory } from "./block-kv.js";
import type { KeyedFolder } from "./copy-blocks.js";
import { DiskTier } from "./disk-tier.js";
import type { ListedTexts, NamedTexts } from "./documents.js";
import { FolderTexts } from "./folder-texts.js";
import type { LowerTier } from "./lower-tier.js";
import { RedisObjects } from "./redis-objects.js";
import type { RemoteObjects } from "./remote-objects.js";
import { RemotePlace } from "./remote-place.js";
import { RemoteTexts } from "./remote-texts.js";
import { RemoteTier } from "./remote-tier.js";
import { S3Objects } from "./s3-objects.js";

/** Of a file system, where no cap is given. */
const defaultShare = 1 / 10;
/** Of an operation on a server, beside what its bytes take. */
const defaultTimeoutMs = { redis: 1_000, s3: 2_000 };

/** Timers take not much more. */
const longestTimeoutMs = 86_400_000;

/** To connect, for who looks at a server and serves nobody meanwhile. */
const lookTimeoutMs = 10_000;
/** Of one operation, then. */
const operationTimeoutMs = 30_000;

const settingsOf = {
  folder: ["cap", "key"],
  redis: ["cap", "key", "prefix", "timeout"],
  s3: ["cap", "key", "region", "endpoint", "timeout"],
} as const;
const limits = { redis: "maxmemory and maxmemory-policy of the server", s3: "the bucket's lifecycle rules" };

type StorePlace = { readonly settings: Readonly<Record<string, string>> } & (
  | { readonly kind: "folder"; readonly path: string }
  | { readonly kind: "redis" | "s3"; readonly url: URL }
);

/** @returns undefined for what is no place. */
function parseStorePlace(text: string): StorePlace | undefined {
  const [, path = "", query] = /^([^?]+)(?:\?(.*))?$/.exec(text) ?? [];
  // A plus is a plus: file names have some.
  const settings = Object.fromEntries(new URLSearchParams(query?.replaceAll("+", "%2B")));
  const place = placeOf(path.replace(/^file:(\/\/)?/, ""));
  if (place === undefined) return undefined;
  const names: readonly string[] = settingsOf[place.kind];
  const isKnown = Object.entries(settings).every(([name, value]) => names.includes(name) && value !== "");
  const { cap = "1", timeout = "1", endpoint = "https://s3" } = settings;
  const isTime = Number(timeout) >= 1 && Number(timeout) <= longestTimeoutMs;
  const isSound = capOf(cap) !== undefined && isTime && /^https?:\/\/[^@]+$/.test(endpoint);
  return isKnown && isSound && URL.canParse(endpoint) ? { ...place, settings } : undefined;
}

function placeOf(path: string) {
  if (path === "") return undefined;
  if (!/^[a-z][a-z0-9+.-]+:\/\//i.test(path)) return { kind: "folder", path } as const;
  const url = URL.canParse(path) ? new URL(path) : undefined;
  if (url && /^rediss?:$/.test(url.protocol) && url.hostname !== "" && /^(\/\d{0,4})?$/.test(url.pathname)) {
    return { kind: "redis", url } as const;
  }
  const isBucket =
    url?.protocol === "s3:" && /^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/.test(url.host) && url.username === "";
  return isBucket ? ({ kind: "s3", url } as const) : undefined;
}

function capOf(text: string): number | undefined {
  const { schema, fromText } = bytes(1);
  return schema.safeParse(fromText(text)).data;
}

const wanted =
  "a folder, and its cap where it has one, ./blocks?cap=20GB; redis://[user:password@]host[:port][/database]; or s3://bucket[/prefix]";
export const storePlaceField = {
  schema: z
    .string()
    .max(4096)
    .refine((text) => parseStorePlace(text) !== undefined, `wanted ${wanted}`)
    .optional(),
  wanted,
  examples: "./blocks?cap=20GB",
};

/** One place, or several, the nearest first. */
export const storePlacesField = {
  schema: z.union([storePlaceField.schema.unwrap(), z.array(storePlaceField.schema.unwrap()).max(8)]).optional(),
  wanted: `${wanted}; or several, the nearest first`,
  // A folder's name may have a comma: what follows one is a place only where it looks like one.
  fromText: (text: string) => text.split(/,(?=[a-z0-9]+:|\.{0,2}\/)/i),
  examples: "./blocks?cap=20GB,redis://cache.internal",
};

/** A tier of blocks that outlive the process, to be disposed after the store. */
export interface StoreTier<M extends BlockMemory> extends AsyncDisposable {
  readonly tier: LowerTier<M>;
  /** Resolves once it writes, where it may. */
  readonly known: Promise<void>;
  /** Of documents. */
  readonly texts: NamedTexts;
}

/** What keeps blocks after the process, before the model is known that they are of. */
export interface OpenedStore extends AsyncDisposable {
  /** Disposing what it gives disposes the place. */
  tier<M extends BlockMemory>(format: BlockFileFormat<M>): StoreTier<M>;
}

/**
 * Opens what checked places name: folders, and servers, which are connected to when blocks are asked for.
 *
 * @param onWarning told where another process writes into a folder, or nobody can; and each time that a server fails.
 * @throws Error for a folder that is none, or cannot be made; for a server with a cap.
 */
export async function openStorePlaces(
  texts: string | readonly string[],
  onWarning: (warning: string) => void = () => undefined,
): Promise<readonly OpenedStore[]> {
  const opened: OpenedStore[] = [];
  try {
    for (const text of [texts].flat()) opened.push(await openStore(parseStorePlace(text) as StorePlace, onWarning));
    return opened;
  } catch (error) {
    for (const one of opened) await one[Symbol.asyncDispose]();
    throw error;
  }
}

async function openStore(place: StorePlace, onWarning: (warning: string) => void): Promise<OpenedStore> {
  const { key } = place.settings;
  const keys = key === undefined ? BlockKeys.none(onWarning) : await BlockKeys.read(key, onWarning);
  if (place.kind === "folder") {
    const folder = await openFolder(place, onWarning);
    return {
      tier: (format) => new DiskTier(folder, sealedFormat(format, keys), keys),
      [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose](),
    };
  }
  const timeoutMs = Number(place.settings.timeout ?? defaultTimeoutMs[place.kind]);
  const objects = await openObjects(place, timeoutMs);
  return {
    tier: (format) => new RemoteTier(objects, sealedFormat(format, keys), { timeoutMs, onWarning, keys }),
    [Symbol.asyncDispose]: () => objects[Symbol.asyncDispose](),
  };
}

async function openFolder(
  { path, settings: { cap } }: StorePlace & { readonly kind: "folder" },
  onWarning: (warning: string) => void,
): Promise<BlockFolder> {
  const folder = await BlockFolder.open(path, cap === undefined ? await shareOf(path) : (capOf(cap) as number));
  if (!folder.canWrite) {
    onWarning(`Blocks are read from ${quote(path)}, and new ones are not kept there. ${folder.reason}`);
  }
  return folder;
}

/** @throws Error for a cap, which no process can hold alone. */
async function openObjects(
  { kind, url, settings }: Exclude<StorePlace, { kind: "folder" }>,
  timeoutMs: number,
): Promise<RemoteObjects> {
  if (settings.cap !== undefined) {
    throw new Error(
      `Cannot use the store "${kind}://${url.host}": it has a cap, wanted none: ${limits[kind]} limit it`,
    );
  }
  const { prefix = "block-kv", region, endpoint } = settings;
  if (kind === "s3") return await S3Objects.open(url, { timeoutMs, region, endpoint });
  return await RedisObjects.open(url, { timeoutMs, prefix });
}

/** A place to look at: its blocks as they are read, and the folder that it is, where it is one. */
export interface OpenedPlace extends BlockPlace {
  readonly folder: BlockFolder | undefined;
  readonly keys: BlockKeys;
  /** Of documents. */
  readonly texts: ListedTexts;
}

/** What a checked place names, to look at. @throws Error where there is none. */
export async function openStoreToRead(text: string): Promise<OpenedPlace> {
  const place = parseStorePlace(text) as StorePlace;
  const { key } = place.settings;
  const keys = key === undefined ? BlockKeys.none() : await BlockKeys.read(key);
  if (place.kind === "folder") {
    const folder = await BlockFolder.openToRead(place.path);
    const texts = new FolderTexts(folder, async () => true, keys);
    return Object.assign(keyedPlace(folder, keys), { folder, keys, texts });
  }
  const objects = await openObjects(place, lookTimeoutMs);
  const run = <T>(_: number, operation: (signal: AbortSignal) => Promise<T>) =>
    operation(AbortSignal.timeout(operationTimeoutMs));
  const texts = new RemoteTexts(objects, { read: run, write: run }, keys);
  return Object.assign(keyedPlace(new RemotePlace(objects), keys), { folder: undefined, keys, texts });
}

/** The folder that a checked place names, to copy blocks into. @throws Error for a server. */
export async function openFolderPlace(text: string): Promise<KeyedFolder & AsyncDisposable> {
  const place = parseStorePlace(text) as StorePlace;
  if (place.kind !== "folder")
    throw new Error(`Cannot copy blocks into ${quote(withoutPassword(text))}: it is a server, wanted a folder`);
  const { key } = place.settings;
  const keys = key === undefined ? BlockKeys.none() : await BlockKeys.read(key);
  const folder = await openFolder(place, () => undefined);
  return { folder, keys, [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose]() };
}

/** The first folder that places name, if any does. */
export function storeFolder(texts: readonly string[]): string | undefined {
  const places = texts.map((text) => parseStorePlace(text));
  return places.find((place) => place?.kind === "folder")?.path;
}

async function shareOf(path: string): Promise<number> {
  // Of a folder that is to be made, the nearest one above it that is there.
  for (let at = resolve(path); ; at = dirname(at)) {
    const found = await statfs(at).catch(() => undefined);
    if (found) return Math.floor(found.bsize * found.blocks * defaultShare);
    if (at === dirname(at)) throw new Error(`Cannot use the store ${quote(path)}: its file system tells no size`);
  }
}
