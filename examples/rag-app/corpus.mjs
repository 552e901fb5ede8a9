// A folder of documents, and what follows it: the search index, and the server's block store. The folder is looked through every
// two seconds, which works on every file system. What was interrupted shows in the difference, and goes on from there.
import { createHash } from "node:crypto";
import { readdir, realpath, stat } from "node:fs/promises";
import { hostname } from "node:os";
import { join, relative, sep } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { APIError } from "openai";
import { kindOf } from "./documents.mjs";

const maxFiles = 10_000;
const scanMs = 2_000;
const longestPauseMs = 60_000;

const digestOf = (...values) => createHash("sha256").update(JSON.stringify(values)).digest("hex").slice(0, 32);

/** What a passage is called in prompts and on the page: its document, and the headings over it. */
export function titleOf({ title, heading }) {
  return heading === "" ? title : `${title} > ${heading}`;
}

/**
 * The readable files below a folder, and what could not be looked at. Hidden ones, packages and symbolic links are passed over:
 * links may lead in circles, and out of the folder.
 * @returns {Promise<{ files: Map<string, string>, problems: Map<string, string> }>} files: each one's signature, by its path with slashes.
 */
export async function scanFolder(folder) {
  const files = new Map();
  const problems = new Map();
  const visit = async (at) => {
    const entries = await readdir(at, { withFileTypes: true }).catch((error) => {
      if (at === folder) throw new Error(`Cannot read the folder "${folder}": ${error.code ?? error.message}`);
      problems.set(pathOf(at), `it cannot be looked into: ${error.code}`);
      return [];
    });
    for (const entry of entries) {
      const full = join(at, entry.name);
      if (entry.name.startsWith(".") || entry.name === "node_modules") continue;
      if (entry.isDirectory()) await visit(full);
      if (kindOf(entry.name) === undefined) continue;
      if (entry.isSymbolicLink()) problems.set(pathOf(full), "symbolic links are not followed");
      if (!entry.isFile()) continue;
      if (files.size === maxFiles)
        throw new Error(`Cannot read the folder "${folder}": it has more than ${maxFiles} documents`);
      // A file may go while the folder is looked through.
      const found = await stat(full).catch(() => undefined);
      if (found) files.set(pathOf(full), `${found.size} ${found.mtimeMs} ${found.ctimeMs}`);
    }
  };
  const pathOf = (full) => relative(folder, full).split(sep).join("/");
  await visit(folder);
  return { files, problems };
}

/** A folder's real path. @throws Error where it is none. */
export async function realFolder(folder) {
  const real = await realpath(folder).catch((error) => {
    throw new Error(`Cannot read the folder "${folder}": ${error.code}`);
  });
  if (!(await stat(real)).isDirectory()) throw new Error(`Cannot read the folder "${folder}": it is no folder`);
  return real;
}

export class Corpus {
  #index;
  #backend;
  #reader;
  #onNote;
  #aborter = new AbortController();
  #running;
  /** What the server keeps: digests by id. Undefined where that has to be asked for. */
  #kept;
  #prefix;
  #state = { phase: "starting", detail: "" };
  #skipped = new Map();
  #encoded = new Set();
  /** Why blocks of a document are not kept, by path. */
  #unkept = new Map();
  folder;

  /** @param parts folder: a real path, as of realFolder(); onNote is told in a line what was done. */
  constructor({ folder, index, backend, reader, onNote = () => undefined }) {
    this.folder = folder;
    this.#index = index;
    this.#backend = backend;
    this.#reader = reader;
    this.#onNote = onNote;
    this.#prefix = `rag-app/${digestOf(hostname(), folder).slice(0, 12)}/`;
  }

  /** Follows the folder until close(). */
  start() {
    this.#running ??= this.#follow();
  }

  async #follow() {
    const { signal } = this.#aborter;
    let pauseMs = scanMs;
    while (!signal.aborted) {
      try {
        await this.update();
        pauseMs = scanMs;
      } catch (error) {
        if (signal.aborted) return;
        // The server may have been started anew, with less.
        this.#kept = undefined;
        if (this.#state.detail !== error.message) this.#onNote(error.message);
        this.#state = { phase: "failed", detail: error.message };
        pauseMs = Math.min(pauseMs * 2, longestPauseMs);
      }
      await sleep(pauseMs, undefined, { signal }).catch(() => undefined);
    }
  }

  /** Brings the index, and then the server's blocks, to what the folder has now. */
  async update() {
    // Changes need not wait until all is encoded.
    do await this.#updateIndex();
    while (await this.#updateBlocks());
    this.#state = { phase: "ready", detail: "" };
  }

  async #updateIndex() {
    const { files, problems } = await scanFolder(this.folder);
    this.#skipped = problems;
    const known = new Map((await this.#index.documents()).map((document) => [document.path, document]));
    // What lies below a folder that cannot be looked into now is not gone.
    const isHidden = (path) => [...problems.keys()].some((at) => path.startsWith(`${at}/`));
    const gone = [...known.keys()].filter((path) => !files.has(path) && !isHidden(path));
    const { encoder } = this.#backend;
    const changed = [...files].filter(([path, signature]) => {
      const document = known.get(path);
      return document?.signature !== signature || (document.encoder !== encoder && document.problem === null);
    });
    for (const path of gone) {
      await this.#index.delete(path);
      this.#onNote(`removed ${path}`);
    }
    let numDone = 0;
    for (const [path, signature] of changed) {
      this.#aborter.signal.throwIfAborted();
      this.#state = { phase: "reading", detail: `${++numDone} of ${changed.length}` };
      await this.#read(path, signature, known.get(path));
    }
    if (changed.length > 0) this.#onNote(`read ${changed.length} of ${files.size} documents`);
  }

  async #read(path, signature, known) {
    const { encoder } = this.#backend;
    const { signal } = this.#aborter;
    let document;
    let digest;
    let vectors = [];
    try {
      document = await this.#reader.read(join(this.folder, path));
      digest = digestOf(document);
      if (known?.digest === digest && known.encoder === encoder) return await this.#index.sign(path, signature);
      const texts = document.passages.map(({ heading, text }) => `${titleOf({ ...document, heading })}\n${text}`);
      if (encoder !== "") vectors = await this.#backend.embed(texts, signal);
    } catch (error) {
      signal.throwIfAborted();
      // Of the server's errors, a 400 is about the document.
      if (error instanceof APIError && error.status !== 400) throw error;
      // Gone since the folder was looked through: it will not be there the next time.
      if (error.message.startsWith("ENOENT")) return;
      await this.#index.put({ path, signature, problem: error.message });
      this.#onNote(`passed over ${path}: ${error.message}`);
      return;
    }
    const { title, passages } = document;
    await this.#index.put({
      ...{ path, signature, title, digest, encoder },
      passages: passages.map((passage, i) => ({ ...passage, vector: vectors[i] })),
    });
  }

  /** @returns whether there is more to do. */
  async #updateBlocks() {
    const { signal } = this.#aborter;
    this.#kept ??= await this.#backend.kept(this.#prefix);
    const wanted = new Map();
    for (const document of await this.#index.documents()) {
      if (document.problem !== null) continue;
      const { path, digest } = document;
      // Another model has blocks of its own.
      wanted.set(this.#idOf(path), { ...document, digest: digestOf(digest, this.#backend.model) });
    }
    for (const id of [...this.#kept.keys()].filter((one) => !wanted.has(one))) {
      signal.throwIfAborted();
      await this.#backend.forget(id);
      this.#kept.delete(id);
    }
    const lacking = [...wanted].filter(([id, { digest }]) => this.#kept.get(id) !== digest);
    this.#encoded = new Set(
      [...wanted].flatMap(([id, { path, digest }]) => (this.#kept.get(id) === digest ? [path] : [])),
    );
    for (const [id, { path, title, digest, numPassages }] of lacking.slice(0, 8)) {
      signal.throwIfAborted();
      let numEncoded = 0;
      const numDone = this.#encoded.size + 1;
      const show = () => {
        const detail = `document ${numDone} of ${wanted.size}, passage ${numEncoded} of ${numPassages}`;
        this.#state = { phase: "encoding", detail };
      };
      show();
      const passages = (await this.#index.passages(path)).map(({ heading, text }) => ({
        title: titleOf({ title, heading }),
        text,
      }));
      const onPassage = () => {
        numEncoded++;
        show();
      };
      const problem = await this.#backend.keep(id, digest, passages, onPassage, signal);
      if (problem === undefined) this.#unkept.delete(path);
      else this.#unkept.set(path, problem);
      this.#kept.set(id, digest);
      this.#encoded.add(path);
    }
    if (lacking.length > 8) return true;
    if (lacking.length > 0) this.#onNote(`encoded: ${wanted.size} documents are in the block store`);
    return false;
  }

  #idOf(path) {
    return `${this.#prefix}${digestOf(path)}`;
  }

  /** What stands where, for the page. */
  async status() {
    const documents = await this.#index.documents();
    return {
      folder: this.folder,
      model: this.#backend.model,
      search: this.#backend.encoder === "" ? "by words (BM25)" : `by vectors of ${this.#backend.encoder}`,
      ...this.#state,
      documents: documents.map(({ path, title, numPassages, problem }) => ({
        path,
        title,
        numPassages,
        isEncoded: this.#encoded.has(path),
        problem: problem ?? this.#unkept.get(path),
      })),
      skipped: [...this.#skipped].map(([path, problem]) => ({ path, problem })),
    };
  }

  /**
   * The passages for a question, the best first. After a turn, half of them for this question alone and half for it with the one before,
   * which it may mean by a word like "it".
   */
  async retrieve(question, turns, limit) {
    const before = turns.at(-1)?.question;
    const asked = before === undefined ? [question] : [question, `${before} ${question}`];
    const signal = this.#aborter.signal;
    const vectors = this.#backend.encoder === "" ? [] : await this.#backend.embed(asked, signal);
    const found = await Promise.all(asked.map((text, i) => this.#index.search({ text, vector: vectors[i] }, limit)));
    const passages = new Map();
    for (let i = 0; i < limit; i++) {
      for (const list of found)
        if (list[i]) passages.set(`${list[i].path}\n${list[i].heading}\n${list[i].text}`, list[i]);
    }
    return [...passages.values()].slice(0, limit);
  }

  /** Whether the index has a document of this path, so that its file may be shown. */
  async has(path) {
    return (await this.#index.documents()).some((document) => document.path === path);
  }

  /** Lets go of what is being done: the next start goes on from there. */
  async close() {
    this.#aborter.abort(new Error("Cannot go on: the application ends"));
    await this.#reader.close();
    await this.#running;
  }
}
