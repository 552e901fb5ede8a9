// The passages, in a database file: found by their vectors where an encoder gives some, else by their words (BM25).
import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import { DuckDBInstance, FLOAT, LIST, listValue } from "@duckdb/node-api";

const schema = `
  CREATE TABLE IF NOT EXISTS documents (
    path VARCHAR, signature VARCHAR, title VARCHAR, digest VARCHAR, encoder VARCHAR, problem VARCHAR);
  CREATE TABLE IF NOT EXISTS passages (
    id BIGINT, path VARCHAR, heading VARCHAR, page INTEGER, text VARCHAR, numTerms INTEGER, vector FLOAT[]);
  CREATE TABLE IF NOT EXISTS terms (passage BIGINT, term VARCHAR, times INTEGER);`;

// BM25 with its usual constants, k1 = 1.2 and b = 0.75.
const byWords = `
  WITH asked AS (SELECT DISTINCT unnest($terms::VARCHAR[]) AS term),
    found AS (SELECT * FROM terms SEMI JOIN asked USING (term)),
    spread AS (SELECT term, count(*) AS numPassages FROM found GROUP BY term),
    whole AS (SELECT count(*) AS size, avg(numTerms) AS meanTerms FROM passages)
  SELECT passages.id, sum(ln(1 + (size - numPassages + 0.5) / (numPassages + 0.5))
      * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * numTerms / meanTerms))) AS score
  FROM found JOIN spread USING (term) JOIN passages ON passages.id = found.passage, whole
  GROUP BY passages.id`;
const byVector = `
  SELECT id, list_cosine_similarity(vector, $vector::FLOAT[]) AS score FROM passages
  WHERE len(vector) = len($vector::FLOAT[])`;

const segmenter = new Intl.Segmenter("und", { granularity: "word" });

/**
 * A text's words as they are compared: without case, accents, and what follows their fifth letter, which stands for endings in many languages.
 * @example termsOf("Größen, deleted") gives ["große", "delet"]
 */
export function termsOf(text) {
  const terms = [];
  for (const { segment, isWordLike } of segmenter.segment(text)) {
    if (!isWordLike) continue;
    const plain = segment.toLowerCase().normalize("NFKD").replaceAll(/\p{M}/gu, "");
    for (const word of plain.match(/[\p{L}\p{N}]+/gu) ?? []) terms.push([...word].slice(0, 5).join(""));
  }
  return terms;
}

export class SearchIndex {
  #instance;
  #reader;
  #writer;
  #nextId;

  constructor(instance, reader, writer, nextId) {
    this.#instance = instance;
    this.#reader = reader;
    this.#writer = writer;
    this.#nextId = nextId;
  }

  /** @param path the database's file. @throws Error where another process has it open, or it is no database. */
  static async open(path) {
    try {
      await mkdir(dirname(path), { recursive: true });
      const instance = await DuckDBInstance.create(path, { threads: "1", memory_limit: "1GB" });
      const writer = await instance.connect();
      await writer.run(schema);
      const last = await writer.runAndReadAll("SELECT coalesce(max(id), 0)::INTEGER FROM passages");
      // Searches read what was committed while a document is being written.
      return new SearchIndex(instance, await instance.connect(), writer, last.getRows()[0][0] + 1);
    } catch (error) {
      const isTaken = /could not set lock on file|used by another process/i.test(error.message);
      const reason = isTaken ? "another process uses it" : `${error.message.split("\n")[0]} (removed, it is made anew)`;
      throw new Error(`Cannot open the index "${path}": ${reason}`);
    }
  }

  /** Every document, of files that could not be read too: those have a `problem`, and no passages. */
  async documents() {
    return await this.#rows(
      `SELECT documents.*, count(passages.id)::INTEGER AS numPassages
       FROM documents LEFT JOIN passages USING (path) GROUP BY ALL ORDER BY path`,
    );
  }

  async passages(path) {
    return await this.#rows("SELECT heading, page, text FROM passages WHERE path = $path ORDER BY id", { path });
  }

  /** Puts a document in the place of the one of its path, whole or not at all. */
  async put({ path, signature, title = "", digest = "", encoder = "", problem, passages = [] }) {
    await this.#transaction(async () => {
      await this.#remove(path);
      await this.#writer.run("INSERT INTO documents VALUES ($path, $signature, $title, $digest, $encoder, $problem)", {
        path,
        signature,
        title,
        digest,
        encoder,
        problem: problem ?? null,
      });
      if (passages.length === 0) return;
      const rows = passages.map(({ heading, page, text, vector }) => {
        const terms = termsOf(`${title} ${heading} ${text}`);
        const times = new Map();
        for (const term of terms) times.set(term, (times.get(term) ?? 0) + 1);
        return {
          id: this.#nextId++,
          heading,
          page: page ?? 0,
          text,
          numTerms: terms.length,
          times,
          vector: vector ?? [],
        };
      });
      const column = (name) => listValue(rows.map((row) => row[name]));
      await this.#writer.run(
        `INSERT INTO passages SELECT unnest($id::BIGINT[]), $path, unnest($heading::VARCHAR[]), unnest($page::INTEGER[]),
           unnest($text::VARCHAR[]), unnest($numTerms::INTEGER[]), unnest($vector::FLOAT[][])`,
        {
          path,
          ...Object.fromEntries(["id", "heading", "page", "text", "numTerms"].map((name) => [name, column(name)])),
          vector: listValue(rows.map(({ vector }) => listValue(vector))),
        },
        { vector: LIST(LIST(FLOAT)) },
      );
      const counts = rows.flatMap(({ id, times }) => [...times].map(([term, number]) => ({ id, term, number })));
      await this.#writer.run(
        "INSERT INTO terms SELECT unnest($id::BIGINT[]), unnest($term::VARCHAR[]), unnest($number::INTEGER[])",
        Object.fromEntries(
          ["id", "term", "number"].map((name) => [name, listValue(counts.map((count) => count[name]))]),
        ),
      );
    });
  }

  /** Of a file that was touched, and is as it was. */
  async sign(path, signature) {
    await this.#writer.run("UPDATE documents SET signature = $signature WHERE path = $path", { path, signature });
  }

  async delete(path) {
    await this.#transaction(() => this.#remove(path));
  }

  /** The best passages first. @param query its text, and its vector where passages have some. */
  async search({ text, vector }, limit) {
    const terms = termsOf(text);
    if (vector === undefined && terms.length === 0) return [];
    return await this.#rows(
      `SELECT path, title, heading, page, text, score
       FROM (${vector === undefined ? byWords : byVector}) JOIN passages USING (id) JOIN documents USING (path)
       ORDER BY score DESC, passages.id LIMIT ${limit}`,
      vector === undefined ? { terms: listValue(terms) } : { vector: listValue(vector) },
      vector === undefined ? {} : { vector: LIST(FLOAT) },
    );
  }

  close() {
    this.#reader.closeSync();
    this.#writer.closeSync();
    this.#instance.closeSync();
  }

  async #rows(sql, values = {}, types = {}) {
    const result = await this.#reader.runAndReadAll(sql, values, types);
    return result.getRowObjectsJS();
  }

  async #remove(path) {
    await this.#writer.run("DELETE FROM terms WHERE passage IN (SELECT id FROM passages WHERE path = $path)", { path });
    for (const table of ["passages", "documents"])
      await this.#writer.run(`DELETE FROM ${table} WHERE path = $path`, { path });
  }

  async #transaction(work) {
    await this.#writer.run("BEGIN");
    try {
      await work();
      await this.#writer.run("COMMIT");
    } catch (error) {
      await this.#writer.run("ROLLBACK").catch(() => undefined);
      throw error;
    }
  }
}
