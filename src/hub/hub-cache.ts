import type { Dirent } from "node:fs";
import { link, readdir, readFile, realpath, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { basename, dirname, join, relative, sep } from "node:path";
import { getRepoFolderName } from "@huggingface/hub";
import { makeFolder } from "../files/outputs.js";
import { describeWriteError } from "../files/regular-file.js";
import type { HubName } from "../model/hub-name.js";
import type { HubPlace } from "./hub-place.js";

// The layout that the `hf` command has: blobs/DIGEST, snapshots/COMMIT/NAME that leads to a blob, refs/BRANCH that holds a commit.

/** One commit of a repository, as far as it is on the disk. */
export interface Snapshot {
  readonly commit: string;
  readonly folder: string;
  /** Files that are there, from the snapshot's root, with "/" between. */
  readonly names: readonly string[];
}

/** The folder of a repository. */
export function repoFolder(place: HubPlace, repo: string): string {
  return join(place.cacheDir, getRepoFolderName({ type: "model", name: repo }));
}

/** What is there of the revision that a name says. */
export async function findSnapshot(
  place: HubPlace,
  { repo, revision = "main" }: HubName,
): Promise<Snapshot | undefined> {
  const folder = repoFolder(place, repo);
  const commit = (await readFile(join(folder, "refs", revision), "utf8").catch(() => revision)).trim();
  const snapshot = await readSnapshot(folder, commit);
  return snapshot.names.length === 0 ? undefined : snapshot;
}

/** @param commit the name of a folder in snapshots/; what is no name has no files. */
async function readSnapshot(repoFolder: string, commit: string): Promise<Snapshot> {
  const folder = join(repoFolder, "snapshots", commit);
  const isName = /^\w[\w.-]*$/.test(commit);
  return { commit, folder, names: isName ? await filesIn(folder) : [] };
}

/** The files below a folder, links followed; links that lead nowhere are left out. */
export async function filesIn(folder: string): Promise<string[]> {
  const entries: Dirent[] = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
  const paths = entries.filter((entry) => !entry.isDirectory()).map((entry) => join(entry.parentPath, entry.name));
  const isThere = await Promise.all(
    paths.map((path) =>
      stat(path).then(
        (found) => found.isFile(),
        () => false,
      ),
    ),
  );
  return paths
    .filter((_, i) => isThere[i])
    .map((path) => relative(folder, path).split(sep).join("/"))
    .sort();
}

/** Gives a blob its name in a snapshot: by a symbolic link, else a hard link, and where a disk knows neither it moves there. */
export async function linkBlob(blob: string, path: string): Promise<void> {
  await makeFolder(dirname(path));
  await rm(path, { force: true });
  const to = relative(dirname(path), blob);
  const unlessThere = (other: () => Promise<void>) => (error: NodeJS.ErrnoException) => {
    // Another process may have been first.
    return error.code === "EEXIST" ? undefined : other();
  };
  await symlink(to, path)
    .catch(unlessThere(() => link(blob, path)))
    .catch(unlessThere(() => rename(blob, path)))
    .catch((error: unknown) => {
      throw describeWriteError(error, path);
    });
}

/** Writes down which commit a branch or a tag was, where that is not known: the folder may be one that is read alone. */
export async function writeRef(repoFolder: string, revision: string, commit: string): Promise<void> {
  const path = join(repoFolder, "refs", revision);
  if ((await readFile(path, "utf8").catch(() => undefined))?.trim() === commit) return;
  await makeFolder(dirname(path));
  await writeFile(path, commit).catch((error: unknown) => {
    throw describeWriteError(error, path);
  });
}

/** A repository that has a folder here. */
export interface KeptRepo {
  readonly repo: string;
  readonly folder: string;
  readonly snapshots: readonly (Snapshot & {
    /** Branches and tags that were this commit. */
    readonly refs: readonly string[];
  })[];
  /** What was fetched of files that are not there whole, by this program or by hf. */
  readonly parts: readonly string[];
}

/** All repositories of models in the cache. @throws Error if the folder cannot be read. */
export async function keptRepos({ cacheDir }: HubPlace): Promise<KeptRepo[]> {
  const names = await readdir(cacheDir).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
  const repos = names.filter((name) => /^models--\w/.test(name)).sort();
  return Promise.all(repos.map((name) => readRepo(join(cacheDir, name))));
}

async function readRepo(folder: string): Promise<KeptRepo> {
  const repo = basename(folder).split("--").slice(1).join("/");
  const revisions = await filesIn(join(folder, "refs"));
  const commits = await Promise.all(
    revisions.map((name) =>
      readFile(join(folder, "refs", name), "utf8").then(
        (text) => text.trim(),
        () => "",
      ),
    ),
  );
  const folders = await readdir(join(folder, "snapshots")).catch(() => []);
  const snapshots = await Promise.all(folders.map((commit) => readSnapshot(folder, commit)));
  const blobs: string[] = await readdir(join(folder, "blobs")).catch(() => []);
  return {
    repo,
    folder,
    snapshots: snapshots
      .filter(({ names }) => names.length > 0)
      .map((one) => ({ ...one, refs: revisions.filter((_, i) => commits[i] === one.commit) })),
    parts: blobs
      .filter((name) => name.endsWith(".incomplete") && !blobs.includes(name.split(".")[0] as string))
      .map((name) => join(folder, "blobs", name)),
  };
}

/** The digest of a file in a snapshot, which is its blob's name. */
export async function digestInName(path: string): Promise<string | undefined> {
  const name = basename(await realpath(path));
  return /^[0-9a-f]{64}$/.test(name) ? `sha256:${name}` : /^[0-9a-f]{40}$/.test(name) ? `git-sha1:${name}` : undefined;
}

/**
 * Removes files of snapshots, the blobs that no other file leads to, and what is empty then.
 *
 * @returns how many bytes that frees.
 */
export async function removeFiles({ folder, snapshots }: KeptRepo, paths: readonly string[]): Promise<number> {
  const removed = new Set(paths);
  const others = snapshots
    .flatMap((one) => one.names.map((name) => join(one.folder, name)))
    .filter((path) => !removed.has(path));
  const kept = new Set((await statAll(others)).map(({ ino }) => ino));
  const freed = new Map(
    (await statAll(paths)).filter(({ ino }) => !kept.has(ino)).map(({ ino, size }) => [ino, Number(size)]),
  );
  for (const path of paths) await rm(path, { force: true });
  const blobs = (await readdir(join(folder, "blobs")).catch(() => [])).map((name) => join(folder, "blobs", name));
  for (const [i, { ino }] of (await statAll(blobs)).entries()) {
    if (freed.has(ino)) await rm(blobs[i] as string, { force: true });
  }
  for (const { folder: snapshot, refs } of snapshots) {
    if ((await filesIn(snapshot)).length > 0) continue;
    await rm(snapshot, { recursive: true, force: true });
    for (const name of refs) await rm(join(folder, "refs", name), { force: true });
  }
  return [...freed.values()].reduce((sum, size) => sum + size, 0);
}

async function statAll(paths: readonly string[]) {
  return Promise.all(paths.map((path) => stat(path, { bigint: true })));
}
