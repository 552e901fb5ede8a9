import { rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { editDistance } from "../files/edit-distance.js";
import { InputRangeError } from "../files/input-error.js";
import { holdLock } from "../files/lock.js";
import { quote } from "../files/quote.js";
import { pathExists } from "../files/regular-file.js";
import { hubNameText, parseHubName } from "../model/hub-name.js";
import { openModel } from "../model/open-model.js";
import { findPackaged, packagedNames, packagedPath } from "../model/packaged-models.js";
import { type ModelFiles, modelsAmong, modelsNamed } from "./choose-files.js";
import { partOf } from "./download.js";
import { digestInName, filesIn, type KeptRepo, keptRepos, removeFiles } from "./hub-cache.js";
import { type Env, type HubPlace, hubPlace } from "./hub-place.js";
import type { PulledFile } from "./pull.js";

/** A model on the disk, in the folder that is shared with `hf` or in our own. */
export interface KeptModel {
  /** What --model takes, behind hf: where it is of the hub. */
  readonly name: string;
  /** The commit; undefined where nothing of it is whole. */
  readonly revision: string | undefined;
  /** What `Engine.load({ model })` takes. */
  readonly path: string;
  readonly files: readonly (Omit<PulledFile, "digest"> & { readonly digest: string | undefined })[];
  readonly bytes: number;
  readonly isWhole: boolean;
  /** The architecture, or why this engine cannot run it. */
  readonly runs: { readonly architecture: string } | { readonly reason: string };
}

/** All models on the disk, by name. @throws Error if a folder cannot be read. */
export async function keptModels(env: Env): Promise<KeptModel[]> {
  const place = await hubPlace(env);
  const ofHub = await Promise.all((await keptRepos(place)).map(modelsOf));
  const own = await Promise.all(packagedNames.map((name) => packagedModel(name, place)));
  return [...own.flat(), ...ofHub.flat()];
}

async function modelsOf(repo: KeptRepo): Promise<KeptModel[]> {
  const partial = repo.parts.length === 0 ? [] : [await describe(repo.repo, undefined, "", repo.parts, false)];
  const whole = repo.snapshots.flatMap(({ folder, commit, names, refs }) => {
    const isMain = refs.includes("main");
    const models = modelsAmong(names);
    const all: ModelFiles[] =
      models.length > 0 ? [...models] : [{ path: "", names, isWhole: repo.parts.length === 0, use: undefined }];
    return all.map((model) => {
      const part = model.path === "" ? undefined : model.path;
      const name = hubNameText({ repo: repo.repo, revision: isMain ? undefined : (refs[0] ?? commit), part });
      const paths = model.names.map((file) => join(folder, file));
      return describe(name, commit, join(folder, model.path), paths, model.isWhole);
    });
  });
  return await Promise.all([...whole, ...partial]);
}

async function packagedModel(name: string, place: HubPlace): Promise<KeptModel[]> {
  const model = findPackaged(name);
  if (model === undefined) return [];
  const path = packagedPath(place.ownDir, model);
  if (await pathExists(path)) return [await describe(name, model.revision, path, [path], true)];
  return (await pathExists(partOf(path))) ? [await describe(name, undefined, path, [partOf(path)], false)] : [];
}

async function describe(
  name: string,
  revision: string | undefined,
  path: string,
  paths: readonly string[],
  isWhole: boolean,
): Promise<KeptModel> {
  const own = findPackaged(name)?.digest.hex;
  const digest = (file: string) => (own === undefined ? digestInName(file) : isWhole ? `sha256:${own}` : undefined);
  const files = await Promise.all(
    paths.map(async (file) => ({ path: file, bytes: (await stat(file)).size, digest: await digest(file) })),
  );
  const runs = isWhole ? await runsAs(path) : { reason: "it is not whole: pull it again" };
  return { name, revision, path, files, bytes: files.reduce((sum, { bytes }) => sum + bytes, 0), isWhole, runs };
}

async function runsAs(path: string): Promise<KeptModel["runs"]> {
  try {
    return { architecture: (await openModel(path)).config.architecture };
  } catch (error) {
    return { reason: error instanceof Error ? error.message : String(error) };
  }
}

/**
 * Removes a model from the disk, with the blobs that nothing else leads to.
 *
 * @param text OWNER/REPO for all that is there of it; with @REVISION or :FILE or QUANT for that alone; or "smollm2-135m".
 * @returns how many bytes that frees.
 * @throws InputRangeError for what is no model's name, or is not there; Error while it is being fetched.
 */
export async function removeModel(text: string, env: Env): Promise<number> {
  const place = await hubPlace(env);
  const packaged = findPackaged(text);
  if (packaged !== undefined) {
    const path = packagedPath(place.ownDir, packaged);
    await refuseIfFetched(path, text);
    return await removeFolder(dirname(path), text);
  }
  const name = parseHubName(text);
  if (name === undefined || (!name.isExplicit && (await pathExists(text)))) {
    throw new InputRangeError(
      `Cannot remove ${quote(text)}: wanted a model's name, OWNER/REPO[@REVISION][:FILE or QUANT], as "models ls" has it`,
    );
  }
  const repos = await keptRepos(place);
  const repo = repos.find((one) => one.repo === name.repo);
  if (repo === undefined) throw notThere(text, repos);
  for (const part of repo.parts) await refuseIfFetched(part.slice(0, -partOf("").length), text);
  if (name.part === undefined && name.revision === undefined) return await removeFolder(repo.folder, text);
  const snapshots = repo.snapshots.filter(
    ({ commit, refs }) => name.revision === undefined || commit === name.revision || refs.includes(name.revision),
  );
  const other = snapshots.find(({ refs }) => name.part === undefined && refs.some((ref) => ref !== name.revision));
  if (name.revision !== undefined && other?.refs.includes(name.revision)) {
    // Another branch or tag leads to the same files.
    await rm(join(repo.folder, "refs", name.revision));
    return 0;
  }
  const paths = snapshots.flatMap(({ folder, names }) => {
    const models = name.part === undefined ? [{ names }] : modelsNamed(modelsAmong(names), name.part);
    return models.flatMap((model) => model.names.map((file) => join(folder, file)));
  });
  if (paths.length === 0) throw notThere(text, repos);
  return await removeFiles(repo, paths);
}

/** @throws Error while a process fetches it. */
async function refuseIfFetched(path: string, name: string): Promise<void> {
  if (!(await pathExists(dirname(path)))) return;
  await using _lock = await holdLock(`${partOf(path)}.lock`, `remove ${quote(name)}`);
}

/** @returns how many bytes that frees. */
async function removeFolder(folder: string, name: string): Promise<number> {
  const names = await filesIn(folder);
  if (names.length === 0) throw notThere(name, []);
  const found = await Promise.all(names.map((file) => stat(join(folder, file), { bigint: true })));
  await rm(folder, { recursive: true });
  return [...new Map(found.map(({ ino, size }) => [ino, Number(size)])).values()].reduce((sum, size) => sum + size, 0);
}

function notThere(name: string, repos: readonly KeptRepo[]): Error {
  const near = repos
    .map(({ repo }) => repo)
    .filter((repo) => editDistance(repo.toLowerCase(), name.toLowerCase()) <= 4);
  const meant = near.length === 0 ? "" : `; did you mean ${near.map((one) => quote(one)).join(", ")}?`;
  return new InputRangeError(`Cannot remove ${quote(name)}: it is not on the disk${meant}`);
}
