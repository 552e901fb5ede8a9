import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { expect, test } from "vitest";
import { bytesBelow, temporaryFolder } from "../../src/files/test-files.suite.js";
import { buildDist, projectRoot } from "../build-dist.js";
import { Random } from "../models/random.js";
import { LawModels, lawEngine } from "./law-models.js";

interface Kills {
  readonly numKills: number;
  readonly maxMs: number;
}

/** Processes that write into one folder, killed at any moment, each replaced by another. */
async function killWriters(
  { numKills, maxMs }: Kills,
  numProcesses: number,
  cap: string,
  numBlocks: number,
): Promise<{ store: string; model: string; acknowledged: Map<string, number>; mostBytes: number }> {
  await buildDist();
  const library = pathToFileURL(join(projectRoot, "dist", "index.js")).href;
  const store = await temporaryFolder();
  const model = new LawModels().huggingFace({ architecture: "llama", seed: 71 });
  const random = new Random(numKills, "kills");
  const acknowledged = new Map<string, number>();
  let next = 0;
  const start = () => {
    const script = join(projectRoot, "tests", "laws", "killed-writer-child.mjs");
    const first = next;
    next += 100_000;
    const child = spawn(
      process.execPath,
      [script, library, model, store + cap, String(first), ...(cap === "" ? ["ids"] : [])],
      {
        stdio: ["ignore", "pipe", "ignore"],
      },
    );
    createInterface({ input: child.stdout }).on("line", (line) => {
      const [id = "", number] = line.split(" ");
      if (/^[0-9a-f]{64}$/.test(id) && number !== undefined) acknowledged.set(id, Number(number));
    });
    return child;
  };
  const children = Array.from({ length: numProcesses }, start);
  let mostBytes = 0;
  const looking = setInterval(() => {
    mostBytes = Math.max(mostBytes, bytesBelow(store));
  }, 20);
  try {
    for (let kill = 0; kill < numKills; kill++) {
      await sleep(random.below(maxMs));
      const i = random.below(numProcesses);
      const victim = children[i] as (typeof children)[number];
      const ended = once(victim, "close");
      victim.kill("SIGKILL");
      await ended;
      children[i] = start();
    }
    // Whoever took the writer's place has had time to write.
    await expect.poll(() => acknowledged.size, { timeout: 90_000 }).toBeGreaterThan(numBlocks);
  } finally {
    clearInterval(looking);
    await Promise.all(
      children.map(async (child) => {
        const ended = once(child, "close");
        child.kill("SIGKILL");
        await ended;
      }),
    );
  }
  return { store, model, acknowledged, mostBytes };
}

/** No block that was acknowledged is lost, none is wrong, and a cap holds at every moment. */
export function killedWriterSuite(kills: Kills): void {
  const onUnix = test.skipIf(process.platform === "win32");
  onUnix(`store: ${kills.numKills} kills of three processes that write`, async () => {
    const { store, model, acknowledged } = await killWriters(kills, 3, "", kills.numKills);
    const random = new Random(kills.numKills, "answers");
    await using engine = await lawEngine(model, { kvType: "f16", store });
    await using fresh = await lawEngine(model, { kvType: "f16" });
    const numbers = [...new Set(acknowledged.values())];
    for (const n of numbers) {
      const { blocks } = await engine.encode([{ text: textOf(n) }]);
      expect(blocks, textOf(n)).toMatchObject([{ hit: true }]);
    }
    for (const i of random.order(numbers.length).slice(0, 20)) {
      const n = numbers[i] as number;
      const prompt = { blocks: [`${textOf(n).trim()}\n`, "why"] };
      const [found, wanted] = [
        await engine.complete(prompt, { mode: "block" }),
        await fresh.complete(prompt, { mode: "block" }),
      ];
      expect(found.tokenIds).toEqual(wanted.tokenIds);
    }
    expect(engine.stats().store.tiers[0]).toMatchObject({ losses: 0 });
    const listed: unknown[] = [];
    for (let after: string | undefined; ; after = String(listed.at(-1))) {
      const some = await engine.documents({ limit: 1000, after });
      listed.push(...some.map(({ id }) => id));
      if (some.length < 1000) break;
    }
    expect(listed).toEqual(expect.arrayContaining(numbers));
    // What the processes left is taken away.
    const left = () => ["partial", "shares"].flatMap((name) => namesIn(join(store, name)));
    await expect.poll(left, { timeout: 10_000 }).toEqual([]);
  });

  onUnix(`store: the cap holds through ${kills.numKills} kills of eight processes that write`, async () => {
    const cap = 2 ** 19;
    const { store, mostBytes } = await killWriters(kills, 8, `?cap=${cap}`, 150);
    expect(mostBytes).toBeLessThanOrEqual(cap);
    // It was filled, and not by what processes left.
    expect(bytesBelow(join(store, "blocks"))).toBeGreaterThan(cap / 4);
  });
}

/** The passage of a number, as the processes have it. */
const textOf = (n: number) => `Passage ${n} ${"of words ".repeat(n % 17)}`;

function namesIn(folder: string): readonly string[] {
  return existsSync(folder) ? readdirSync(folder) : [];
}
