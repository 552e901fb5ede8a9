import type { DuckDBInstance } from "@duckdb/node-api";

/** A database in memory. The package is loaded when it is first needed: that takes longer than small files take. */
export async function openDatabase(options: Record<string, string>): Promise<DuckDBInstance> {
  const { DuckDBInstance } = await import("@duckdb/node-api");
  return DuckDBInstance.create(":memory:", options);
}
