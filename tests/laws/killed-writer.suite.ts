import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { expect, test } from "vitest";
import { temporaryFolder } from "../../src/files/test-files.suite.js";
import { buildDist, projectRoot } from "../build-dist.js";
import { Random } from "../models/random.js";
import { LawModels, lawEngine } from "./law-models.js";

/** Processes that write into one folder are killed at any moment: no block that was acknowledged is lost, and none is wrong. */
export function killedWriterSuite({ numKills, maxMs }: { readonly numKills: number; readonly maxMs: number }): void {
  test.skipIf(process.platform === "win32")(`store: ${numKills} kills of three processes that write`, async () => {
    await buildDist();
    const library = pathToFileURL(join(projectRoot, "dist", "index.js")).href;
    const store = await temporaryFolder();
    const models = new LawModels();
    const model = models.huggingFace({ architecture: "llama", seed: 71 });
    const random = new Random(numKills, "kills");
    const acknowledged = new Map<string, number>();
    let next = 0;
    const start = () => {
      const script = join(projectRoot, "tests", "laws", "killed-writer-child.mjs");
      const first = next;
      next += 100_000;
      const child = spawn(process.execPath, [script, library, model, store, String(first)], {
        stdio: ["ignore", "pipe", "ignore"],
      });
      createInterface({ input: child.stdout }).on("line", (line) => {
        const [id = "", number] = line.split(" ");
        if (/^[0-9a-f]{64}$/.test(id) && number !== undefined) acknowledged.set(id, Number(number));
      });
      return child;
    };
    const children = [start(), start(), start()];
    for (let kill = 0; kill < numKills; kill++) {
      await sleep(random.below(maxMs));
      const i = random.below(3);
      const victim = children[i] as (typeof children)[number];
      const ended = once(victim, "close");
      victim.kill("SIGKILL");
      await ended;
      children[i] = start();
    }
    // Whoever took the writer's place has had time to write.
    await expect.poll(() => acknowledged.size, { timeout: 60_000 }).toBeGreaterThan(numKills);
    await Promise.all(
      children.map(async (child) => {
        const ended = once(child, "close");
        child.kill("SIGKILL");
        await ended;
      }),
    );
    await using engine = await lawEngine(model, { kvType: "f16", store });
    await using fresh = await lawEngine(model, { kvType: "f16" });
    const numbers = [...new Set(acknowledged.values())];
    for (const n of numbers) {
      const passage = `Passage ${n} ${"of words ".repeat(n % 17)}`;
      const { blocks } = await engine.encode([passage]);
      expect(blocks, passage).toMatchObject([{ hit: true }]);
    }
    for (const i of random.order(numbers.length).slice(0, 20)) {
      const n = numbers[i] as number;
      const prompt = { blocks: [`Passage ${n} ${"of words ".repeat(n % 17)}`, "why"] };
      const [found, wanted] = [
        await engine.complete(prompt, { mode: "block" }),
        await fresh.complete(prompt, { mode: "block" }),
      ];
      expect(found.tokenIds).toEqual(wanted.tokenIds);
    }
    expect(engine.stats().store.tiers[0]).toMatchObject({ losses: 0 });
    const partial = join(store, "partial");
    expect(existsSync(partial) ? readdirSync(partial) : []).toEqual([]);
  });
}
