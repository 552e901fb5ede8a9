import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DuckDBInstance } from "@duckdb/node-api";
import { expect, test } from "vitest";
import { type Row, readRows } from "./rows.js";

const never = new AbortController().signal;

async function read(path: string): Promise<Row[]> {
  const rows: Row[] = [];
  for await (const row of readRows(path, never)) rows.push(row);
  return rows;
}

test("readRows(): of Parquet, numbers that JSON has not are null, and texts that spell them stay", async () => {
  const folder = mkdtempSync(join(tmpdir(), "block-attention-rows-"));
  try {
    const path = join(folder, "odd.parquet");
    const instance = await DuckDBInstance.create(":memory:");
    const connection = await instance.connect();
    const row = String.raw`'a "NaN" \ Infinity' AS text, [1.5::DOUBLE, 'nan'::DOUBLE, 'inf'::DOUBLE, '-inf'::DOUBLE] AS list, {'NaN': 'nan'::FLOAT} AS inside, 7 AS n`;
    await connection.run(`COPY (SELECT ${row}) TO '${path}' (FORMAT parquet)`);
    connection.closeSync();
    instance.closeSync();
    const value = { text: 'a "NaN" \\ Infinity', list: [1.5, null, null, null], inside: { NaN: null }, n: 7 };
    expect(await read(path)).toEqual([{ kind: "row", where: expect.stringContaining("row 1 of"), value }]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

const shared = "../shared/cases/d3-col-nan.parquet";

test.skipIf(!existsSync(shared))(
  `readRows(): a column of NaN beside messages (skipped without ${shared})`,
  async () => {
    const rows = await read(shared);
    expect(rows).toHaveLength(1);
    expect(rows[0]).toMatchObject({ kind: "row", value: { x: null } });
  },
);
