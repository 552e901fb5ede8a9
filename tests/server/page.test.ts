import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Fastify, { type FastifyInstance } from "fastify";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ApiKeys } from "../../src/server/api-keys.js";
import { createApp } from "../../src/server/app.js";
import { FakeEngine } from "../../src/server/fake-engine.suite.js";
import { registerPage } from "../../src/server/page/register.js";
import { loadConfig } from "../../src/server/server-config.js";
import { projectRoot } from "../build-dist.js";
import { chromiumPath } from "./chromium.js";
import { type FakeBehaviour, fakeApi } from "./fake-api.js";

const executablePath = chromiumPath();
const reason = executablePath === undefined ? " (skipped: no Chromium here; CHROMIUM_PATH names one)" : "";

describe.skipIf(executablePath === undefined)(`the page in Chromium${reason}`, () => {
  let folder = "";
  let browser: Browser;

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "block-attention-page-"));
    execFileSync(process.execPath, [join("scripts", "build-page.mjs"), "--out", folder], { cwd: projectRoot });
    // Chromium has no sandbox for root, as tests in containers run; it opens our own page only.
    const args = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
    browser = await chromium.launch({ executablePath: executablePath as string, args });
  });
  afterAll(async () => {
    await browser?.close();
    rmSync(folder, { recursive: true, force: true });
  });

  interface PageOptions extends BrowserContextOptions {
    /** Errors of the console that the test brings about. */
    readonly allowed?: RegExp;
    /** Answers for the page's own files in the server's place. */
    readonly files?: FastifyInstance;
  }

  /** Opens the page of a fake server. */
  async function onPage(
    behaviour: FakeBehaviour,
    work: (page: Page, server: ReturnType<typeof fakeApi>) => Promise<void>,
    options: PageOptions = {},
  ): Promise<void> {
    const server = fakeApi(behaviour);
    registerPage(server.app, folder);
    await open(server.app, (page) => work(page, server), options);
  }

  /** Opens a server's page and, after the test's work, looks at what went wrong beside it. */
  async function open(
    app: FastifyInstance,
    work: (page: Page) => Promise<void>,
    { allowed, files, ...contextOptions }: PageOptions,
  ): Promise<void> {
    const url = await app.listen({ host: "127.0.0.1", port: 0 });
    const context = await browser.newContext(contextOptions);
    context.setDefaultTimeout(10_000);
    const troubles: string[] = [];
    if (files !== undefined) {
      await context.route(/^[^/]+\/\/[^/]+(\/|\/assets\/[^/]+)$/, async (route) => {
        const answer = await files.inject(new URL(route.request().url()).pathname);
        const headers = answer.headers as Record<string, string>;
        await route.fulfill({ status: answer.statusCode, headers, body: answer.rawPayload });
      });
    }
    try {
      const page = await context.newPage();
      // Violations of the policy are errors of the console.
      page.on("console", (message) => {
        const text = `${message.text()} ${message.location().url}`;
        if (message.type() === "error" && allowed?.test(text) !== true) troubles.push(text);
      });
      page.on("pageerror", (error) => troubles.push(String(error)));
      page.on("request", (request) => {
        if (!request.url().startsWith(`${url}/`)) troubles.push(`asked for ${request.url()}`);
      });
      await page.goto(url);
      await page.locator("[data-connection=connected], .key").first().waitFor();
      await work(page);
    } finally {
      await context.close();
      await app.close();
    }
    expect(troubles).toEqual([]);
  }

  const ask = async (page: Page) => {
    await page.getByRole("button", { name: "Ask", exact: true }).click();
    await page.locator("[data-run=done]").waitFor();
  };
  /** Where each part of the last prompt came from, as the page shows it. */
  const parts = (page: Page) =>
    page
      .locator(".blocks li")
      .evaluateAll((items) => items.map((item) => item.textContent?.replace(/, \d+ tokens?$/, "")));
  const titles = (page: Page) => page.locator(".card-title").allTextContents();
  const announced = (page: Page, text: string) =>
    page.locator("[data-announcement]", { hasText: text }).waitFor({ state: "attached" });
  const focusedName = (page: Page) =>
    page.evaluate<string>("document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent");

  test("a newcomer finds an example, asks, asks again in another order, and sees every passage from the store", () =>
    onPage({}, async (page, { deleted, questions }) => {
      await expect.poll(() => titles(page)).toHaveLength(3);
      const [first, second, third] = (await titles(page)) as [string, string, string];
      await ask(page);
      await expect.poll(() => page.locator(".answer-text").textContent()).toBe("Värmland, 漢字 🙂.");
      await expect
        .poll(() => parts(page))
        .toEqual([
          "Preamble the task, before the passagescomputed",
          `1. ${first}computed`,
          `2. ${second}computed`,
          `3. ${third}computed`,
          "Questioncomputed",
        ]);
      await expect.poll(() => page.locator(".card [data-served=computed]").count()).toBe(3);
      await expect.poll(() => page.locator("[data-bar=first] .bar").count()).toBe(1);
      await expect.poll(() => page.locator("[data-bar=stored] .bar").count()).toBe(0);

      await page.getByRole("button", { name: `Move ${third} up` }).click();
      await page.getByRole("button", { name: `Move ${third} up` }).click();
      await page.getByRole("button", { name: `Move ${first} down` }).click();
      await expect.poll(() => titles(page)).toEqual([third, second, first]);
      await ask(page);
      await expect
        .poll(() => parts(page))
        .toEqual([
          "Preamble the task, before the passagesfrom the store",
          `1. ${third}from the store`,
          `2. ${second}from the store`,
          `3. ${first}from the store`,
          "Questioncomputed",
        ]);
      await expect.poll(() => page.locator(".card [data-served=stored]").count()).toBe(3);
      await expect
        .poll(() => page.locator(".happened").textContent())
        .toMatch(/\d+% came from the store: \d+ of \d+ tokens \(\d+ in blocks\) were not computed again, 12 were/);
      expect(Number(await page.locator("[data-saved]").getAttribute("data-saved"))).toBeGreaterThan(50);
      expect(questions.at(-1)).toMatchObject({
        temperature: 0,
        max_tokens: 60,
        block_attention: { mode: "block", explain: true },
      });
      const links = page.getByRole("link", { name: /^(The )?API/ });
      await expect
        .poll(() => links.evaluateAll((all) => all.map((link) => link.getAttribute("href"))))
        .toEqual(["/docs", "/docs"]);

      await page.getByLabel("Full attention").check();
      await ask(page);
      await expect.poll(() => parts(page)).toEqual(["The whole promptcomputed"]);
      await expect.poll(() => page.locator(".timing").textContent()).toMatch(/\d+\.\d times sooner from the store/);

      await page.getByLabel("Block attention").check();
      await page.getByRole("button", { name: "Forget these passages" }).click();
      await page.getByText("The store has forgotten these passages").first().waitFor();
      expect(new Set(deleted).size).toBe(3);
      await ask(page);
      await expect.poll(() => page.locator(".card [data-served=computed]").count()).toBe(3);

      await page.reload();
      await expect.poll(() => titles(page)).toEqual([third, second, first]);
    }));

  test("all three times are the median of five over 15 passages, and the answer stays", () =>
    onPage({}, async (page, { questions, deleted }) => {
      await ask(page);
      const before = await page.locator(".answer").textContent();
      await page.getByRole("button", { name: "Measure all three" }).click();
      await announced(page, "Measured");
      await expect.poll(() => page.locator(".answer").textContent()).toBe(before);
      await expect
        .poll(() => page.locator("[data-bar=first]").first().textContent())
        .toContain("378 of 378 tokens computed");
      const measured = page.locator("[data-measured='5']");
      await expect.poll(() => measured.locator("h3").textContent()).toBe("Median of 5 over 15 passages");
      for (const kind of ["full", "first", "stored"]) {
        await expect.poll(() => measured.locator(`[data-bar=${kind}] .bar`).count()).toBe(1);
      }
      // The question, one request to learn the ids of the preamble and 15 passages, and five rounds of three.
      expect(questions).toHaveLength(1 + 1 + 15);
      expect(questions.slice(1)).toEqual(
        questions.slice(1).map(() => expect.objectContaining({ documents: expect.any(Array), max_tokens: 1 })),
      );
      expect(new Set(questions.slice(1).map((body) => (body as { documents: unknown[] }).documents.length))).toEqual(
        new Set([15]),
      );
      expect([deleted.length, new Set(deleted).size]).toEqual([5 * 16, 16]);
      await expect.poll(() => measured.locator("[data-bar=stored]").textContent()).toContain("12 of ");
    }));

  test("Stop ends a measurement; what was measured and answered so far stays", () =>
    onPage({ wordMs: 60 }, async (page) => {
      await ask(page);
      await page.getByRole("button", { name: "Measure all three" }).click();
      await page.locator("[data-measured='1']").waitFor();
      await page.getByRole("button", { name: "Stop measuring" }).click();
      await announced(page, "Stopped");
      await page.getByText("Median of 1 over 15 passages").waitFor();
      await expect.poll(() => page.locator("[data-run=done]").textContent()).toBe("Värmland, 漢字 🙂.");
    }));

  test("the server's default mode is the page's; warnings stand beside what they warn of", () => {
    const behaviour: FakeBehaviour = { trainedModes: [] };
    return onPage(behaviour, async (page, { questions }) => {
      await expect.poll(() => page.getByLabel("Full attention").isChecked()).toBe(true);
      const note = page.locator(".ask", { hasText: "it reuses passages only as a prefix" });
      await note.locator(".note").waitFor();
      await expect.poll(() => page.locator(".warning").count()).toBe(0);
      await ask(page);
      expect(questions.at(-1)).toMatchObject({ block_attention: { mode: "full" } });
      await page.getByLabel("Block attention").check();
      await note.locator(".warning").waitFor();
      await ask(page);
      await expect
        .poll(() => page.locator(".happened .misses").textContent())
        .toBe("block b, in the store c: The text has changed");
      expect(questions.at(-1)).toMatchObject({ block_attention: { mode: "block" } });
      behaviour.warnings = ['Field "keep_alive" is not used', "The template leaves out message 1"];
      await ask(page);
      await expect
        .poll(() => page.locator(".answer .warning").allTextContents())
        .toEqual(['Warning: Field "keep_alive" is not used', "Warning: The template leaves out message 1"]);
      await announced(page, "Warning: The template leaves out message 1");
      await expect.poll(() => page.evaluate<string[]>(lowContrast)).toEqual([]);
      behaviour.warnings = [];
      await ask(page);
      await expect.poll(() => page.locator(".answer .warning").count()).toBe(0);
      // Chosen for this visit: the next one begins with the server's own again.
      await page.reload();
      await page.locator("[data-connection=connected]").waitFor();
      await expect.poll(() => page.getByLabel("Full attention").isChecked()).toBe(true);
    });
  });

  test("a server that goes away is looked for, and found again with its model", () => {
    const behaviour: FakeBehaviour = {};
    return onPage(
      behaviour,
      async (page) => {
        behaviour.refusal = { status: 503, message: "Cannot serve: the engine is starting again" };
        await page.route("**/v1/models", (route) => route.abort());
        await page.getByRole("button", { name: "Ask", exact: true }).click();
        await page.locator(".answer").getByRole("alert").getByText("starting again. Try again in a moment.").waitFor();
        await page.locator("[data-connection=waiting]").getByText("Cannot reach the server").waitFor();
        behaviour.trainedModes = ["full"];
        await page.unroute("**/v1/models");
        await page.locator("[data-connection=connected]").getByText("fake-model").waitFor();
        await expect.poll(() => page.getByLabel("Full attention").isChecked()).toBe(true);
      },
      { allowed: /status of 503|ERR_FAILED/ },
    );
  });

  test("everything works by keyboard alone", () =>
    onPage({}, async (page) => {
      const tabTo = async (name: string | RegExp) => {
        for (let i = 0; i < 60; i++) {
          await page.keyboard.press("Tab");
          const focused = await focusedName(page);
          if (typeof name === "string" ? focused === name : name.test(focused)) return;
        }
        throw new Error(`Cannot reach "${String(name)}" by Tab`);
      };
      await expect.poll(() => titles(page)).toHaveLength(3);
      const [first, second, third] = (await titles(page)) as [string, string, string];
      await tabTo(/^Reorder/);
      await page.keyboard.press("ArrowDown");
      await expect.poll(() => titles(page)).toEqual([second, first, third]);
      await announced(page, `${first} is now at place 2 of 3`);
      await expect.poll(() => focusedName(page)).toBe(`Reorder ${first}, place 2 of 3`);
      await page.keyboard.press("End");
      await expect.poll(() => titles(page)).toEqual([second, third, first]);
      await page.keyboard.press("ArrowDown");
      await expect.poll(() => titles(page)).toEqual([second, third, first]);
      await tabTo(`Remove ${first}`);
      await page.keyboard.press("Enter");
      await announced(page, `${first} removed`);
      await expect.poll(() => focusedName(page)).toBe(`Remove ${third}`);
      // The form takes the focus once it is drawn: a person types later than that.
      const editing = () => page.waitForFunction("document.activeElement instanceof HTMLInputElement");
      await tabTo("Add passage");
      await page.keyboard.press("Enter");
      await editing();
      await page.keyboard.type("Mine");
      await page.keyboard.press("Tab");
      await page.keyboard.type("Words of my own");
      await page.keyboard.press("Control+Enter");
      await expect.poll(() => titles(page)).toEqual([second, third, "Mine"]);
      await expect.poll(() => focusedName(page)).toBe("Edit Mine");
      await page.keyboard.press("Enter");
      await editing();
      await page.keyboard.type("Not kept");
      await page.keyboard.press("Escape");
      await expect.poll(() => titles(page)).toEqual([second, third, "Mine"]);
      await expect.poll(() => focusedName(page)).toBe("Edit Mine");
      await tabTo(/^In the prompt: Mine/);
      await page.keyboard.press("Space");
      await expect.poll(() => page.locator(".passages").textContent()).toContain("2 of 3 in the prompt");
      await page.locator("#question").focus();
      await page.keyboard.press("Enter");
      await announced(page, "Answer: Värmland");
      await expect.poll(() => parts(page)).toHaveLength(4);
    }));

  test("a passage is dragged to another place, and not where Escape gives it up", () =>
    onPage({}, async (page) => {
      const [first, second, third] = (await titles(page)) as [string, string, string];
      const drag = async (name: string, onto: string, end: () => Promise<void>) => {
        const grip = await page.getByRole("button", { name: `Reorder ${name}` }).boundingBox();
        const target = await page.locator(".card", { hasText: onto }).last().boundingBox();
        if (grip === null || target === null) throw new Error("Cannot drag: a card is not there");
        await page.mouse.move(grip.x + 8, grip.y + 8);
        await page.mouse.down();
        await page.mouse.move(grip.x + 8, target.y + target.height / 2, { steps: 4 });
        await page.mouse.move(grip.x + 8, target.y + target.height - 4);
        await expect.poll(() => page.locator(".drop-before, .drop-after").count()).toBe(1);
        await end();
        await page.mouse.up();
      };
      await drag(first, third, () => Promise.resolve());
      await expect.poll(() => titles(page)).toEqual([second, third, first]);
      await drag(second, third, () => page.keyboard.press("Escape"));
      await expect.poll(() => titles(page)).toEqual([second, third, first]);
      await expect.poll(() => page.locator(".card-dragged, .drop-before, .drop-after").count()).toBe(0);
    }));

  test("on a phone the answer scrolls into view, and Stop stays in it", () =>
    onPage(
      { wordMs: 40 },
      async (page) => {
        await expect
          .poll(() => page.locator(".answer").evaluate((panel) => panel.getBoundingClientRect().top))
          .toBeGreaterThan(667);
        await page.getByRole("button", { name: "Ask", exact: true }).click();
        const isSeen = (selector: string) =>
          page.locator(selector).evaluate((element) => {
            const { top, bottom } = element.getBoundingClientRect();
            return top >= 0 && bottom <= 667;
          });
        await expect.poll(() => isSeen("[data-run=running]")).toBe(true);
        await expect.poll(() => isSeen(".ask button:has-text('Stop')")).toBe(true);
        await page.locator("[data-run=done]").waitFor();
        await expect.poll(() => isSeen("[data-run=done]")).toBe(true);
      },
      { viewport: { width: 375, height: 667 }, hasTouch: true, isMobile: true },
    ));

  test("a phone's width needs no scrolling sideways, in light and dark", () =>
    onPage(
      {},
      async (page) => {
        await page.getByRole("button", { name: "Add passage" }).click();
        await page.getByLabel("Title").fill("W".repeat(200));
        await page.getByLabel("Text", { exact: true }).fill("x".repeat(3_000));
        await page.getByRole("button", { name: "Save" }).click();
        await page.locator("#question").fill("?".repeat(300));
        await ask(page);
        await expect.poll(() => page.evaluate("document.documentElement.scrollWidth")).toBe(360);
        const ground = () => page.evaluate<string>("getComputedStyle(document.body).backgroundColor");
        const light = await ground();
        await page.emulateMedia({ colorScheme: "dark", reducedMotion: "reduce" });
        await expect.poll(() => ground()).not.toBe(light);
        await expect
          .poll(() => page.evaluate("getComputedStyle(document.querySelector('.bar')).transitionDuration"))
          .toBe("0s");
      },
      { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true },
    ));

  test("text stands out from its ground by 4.5 to 1, in light and dark", () =>
    onPage({}, async (page) => {
      await ask(page);
      await page.getByLabel("Full attention").check();
      await page.getByRole("button", { name: "Forget these passages" }).click();
      await page.locator(".note").first().waitFor();
      for (const colorScheme of ["light", "dark"] as const) {
        await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
        await expect.poll(() => page.evaluate<string[]>(lowContrast)).toEqual([]);
      }
    }));

  test("where the server wants a key it is asked for, and kept for the tab only", () =>
    onPage(
      { key: "right-key" },
      async (page) => {
        const field = page.getByLabel("Key", { exact: true });
        await page.getByRole("alert").getByText("Cannot use the key").waitFor();
        await page.getByRole("button", { name: "Ask", exact: true }).click();
        await page.locator(".answer").getByRole("alert").getByText("Enter a key at the top of the page").waitFor();
        await expect.poll(() => page.evaluate("document.activeElement.type")).toBe("password");
        await field.fill("wrong-key");
        await page.keyboard.press("Enter");
        await page.locator(".key").getByRole("alert").getByText("Cannot use the key").waitFor();
        await field.fill("right-key");
        await page.keyboard.press("Enter");
        await page.getByText("fake-model").waitFor();
        await ask(page);
        await expect.poll(() => page.evaluate("JSON.stringify({...localStorage})")).not.toContain("right-key");
        expect(page.url()).not.toContain("right-key");
        await page.reload();
        await page.getByText("fake-model").waitFor();
        await page.getByRole("button", { name: "Forget the key" }).click();
        await field.waitFor();
        await expect.poll(() => page.evaluate("JSON.stringify({...sessionStorage})")).not.toContain("right-key");
      },
      { allowed: /status of 401/ },
    ));

  test("the server's errors are told in place, in its words; what came before stays", () => {
    const behaviour: FakeBehaviour = {};
    return onPage(
      behaviour,
      async (page) => {
        const failed = async (message: string) => {
          await page.getByRole("button", { name: "Ask", exact: true }).click();
          await page.locator(".answer").getByRole("alert").getByText(message).waitFor();
        };
        behaviour.refusal = {
          status: 400,
          message: 'Cannot use the prompt: it has 9000 tokens, wanted at most "2048"',
        };
        await failed('it has 9000 tokens, wanted at most "2048"');
        behaviour.breakOff = "error";
        await failed("The engine died with the request");
        await expect.poll(() => page.locator("[data-run=failed]").textContent()).toBe("Värmland, 漢字");
        behaviour.breakOff = "end";
        await failed("The answer was cut off: the server ended it before it was complete");
        behaviour.breakOff = "connection";
        await failed("The answer was cut off: the connection to the server broke");
        await expect.poll(() => page.locator("[data-run=failed]").textContent()).toBe("Värmland, 漢字");
        await ask(page);
        await expect.poll(() => page.getByRole("alert").count()).toBe(0);
      },
      { allowed: /status of 400|ERR_INCOMPLETE_CHUNKED_ENCODING/ },
    );
  });

  test("Stop ends the answer, and the server is told", () =>
    onPage({ wordMs: 300 }, async (page, { questions }) => {
      await page.getByRole("button", { name: "Ask", exact: true }).click();
      await page.locator("[data-run=running]", { hasText: "Värmland" }).waitFor();
      await page.getByRole("button", { name: "Stop", exact: true }).click();
      await announced(page, "Stopped");
      await expect.poll(() => page.locator("[data-run=stopped]").textContent()).toMatch(/^Värmland/);
      expect(questions).toHaveLength(1);
    }));

  test("the metrics are read each second, and not while the page cannot be seen", () =>
    onPage({}, async (page) => {
      let numReads = 0;
      page.on("request", (request) => {
        if (request.url().endsWith("/metrics")) numReads += 1;
      });
      await ask(page);
      await page.locator(".metrics", { hasText: "1 in all" }).waitFor();
      await page.locator(".metrics", { hasText: "4 blocks" }).waitFor();
      expect(
        await page.locator(".chart-line").evaluateAll((lines) => lines.every((line) => line.hasAttribute("d"))),
      ).toBe(true);
      await page.evaluate(
        "Object.defineProperty(document, 'hidden', { value: true, configurable: true }); document.dispatchEvent(new Event('visibilitychange'))",
      );
      await page.waitForTimeout(300);
      const before = numReads;
      await page.waitForTimeout(1_300);
      expect(numReads).toBe(before);
      await page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))");
      await expect.poll(() => numReads).toBeGreaterThan(before);
    }));

  test("with the server's own routes: every passage from the store in another order, and forgotten again", async () => {
    // The sources have no built page beside them.
    const built = Fastify();
    registerPage(built, folder);
    const engine = new FakeEngine({ answer: "Värmland, I think." });
    const config = await loadConfig({ options: {}, env: {} });
    const app = await createApp({ engine, config, keys: new ApiKeys(new Map([["me", "a-key-of-mine-1234"]])) });
    await open(
      app,
      async (page) => {
        await page.getByLabel("Key", { exact: true }).fill("a-key-of-mine-1234");
        await page.keyboard.press("Enter");
        await page.getByText("fake-model").waitFor();
        const served = (kind: string) => page.locator(`.card [data-served=${kind}]`).count();
        await ask(page);
        await expect.poll(() => page.locator(".answer-text").textContent()).toBe("Värmland, I think.");
        await expect.poll(() => served("computed")).toBe(3);
        await page
          .getByRole("button", { name: /^Move .* down$/ })
          .first()
          .click();
        await ask(page);
        await expect.poll(() => served("stored")).toBe(3);
        await page.getByRole("button", { name: "Forget these passages" }).click();
        await page.locator(".note", { hasText: "has forgotten" }).waitFor();
        await ask(page);
        await expect.poll(() => served("computed")).toBe(3);
        await page.getByRole("button", { name: "Measure all three" }).click();
        await announced(page, "Measured");
        for (const kind of ["full", "first", "stored"]) {
          await expect.poll(() => page.locator(`[data-measured="5"] [data-bar=${kind}] .bar`).count()).toBe(1);
        }
        await page.locator(".metrics", { hasText: "19 in all" }).waitFor();
        await page.locator(".metrics", { hasText: "15 blocks" }).waitFor();
        await expect.poll(() => page.locator(".metrics .error").count()).toBe(0);
        engine.setStatus({ state: "restarting", restarts: 1 });
        await page.getByRole("button", { name: "Ask", exact: true }).click();
        await page.locator(".answer").getByRole("alert").getByText("the engine is restarting").waitFor();
      },
      { allowed: /status of (401|503)/, files: built },
    );
    expect(engine.running).toBe(0);
    expect(new Set(engine.asked.map(({ options }) => options.salt)).has("")).toBe(false);
    await built.close();
  });

  test("other examples take the place of those at hand, and Undo brings these back", () =>
    onPage({}, async (page) => {
      const before = await titles(page);
      await page.getByLabel("Example set").selectOption({ label: "All of them, for the timing (15)" });
      await page.getByRole("button", { name: "Load examples" }).click();
      await expect.poll(() => titles(page)).toHaveLength(15);
      await page.getByRole("button", { name: "Undo" }).click();
      await expect.poll(() => titles(page)).toEqual(before);
    }));

  test("another page's own headers reach the server where its origin is named, and nothing does where it is not", async () => {
    const other = Fastify({ forceCloseConnections: true });
    other.get("/", (_request, reply) => reply.type("text/html").send("<!doctype html><title>Another page</title>"));
    const origin = (await other.listen({ host: "127.0.0.1", port: 0 })).replace("127.0.0.1", "localhost");
    const served: FastifyInstance[] = [other];
    const page = await browser.newPage();
    try {
      await page.goto(origin);
      for (const [corsOrigins, expected] of [
        [origin, "200 fake-model"],
        ["*", "200 fake-model"],
        ["https://app.example", "TypeError"],
      ]) {
        const config = await loadConfig({ options: { corsOrigins: corsOrigins! }, env: {} });
        const keys = new ApiKeys(new Map([["me", "a-key-of-mine-1234"]]));
        const app = await createApp({ engine: new FakeEngine(), config, keys });
        served.push(app);
        const url = await app.listen({ host: "127.0.0.1", port: 0 });
        // As OpenAI's client and OpenTelemetry send them.
        const headers = {
          authorization: "Bearer a-key-of-mine-1234",
          "content-type": "application/json",
          "x-stainless-lang": "js",
          "x-stainless-retry-count": "0",
          traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
          baggage: "a=1",
        };
        const request = { method: "POST", headers, body: '{"prompt":"a"}' };
        const answer = `fetch("${url}/v1/completions", ${JSON.stringify(request)})
          .then(async (answer) => answer.status + " " + (await answer.json()).model, (error) => error.name)`;
        await expect.poll(() => page.evaluate(answer), { message: `allowed: ${corsOrigins}` }).toBe(expected);
      }
    } finally {
      await page.close();
      for (const app of served) {
        app.server.closeAllConnections();
        await app.close();
      }
    }
  });

  test("what was kept and is no draft does not keep the page from opening", () =>
    onPage({}, async (page) => {
      await page.evaluate("localStorage.setItem('block-attention.playground', '{\"version\":1,\"passages\":7}')");
      await page.reload();
      await expect.poll(() => titles(page)).toHaveLength(3);
    }));
});

/** In the page: each text whose colour does not stand out from the nearest ground behind it. @see WCAG 2.2, 1.4.3 */
const lowContrast = `(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const channels = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (colour) => {
    const [r, g, b] = channels(colour).map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const groundOf = (element) => {
    for (let at = element; at !== null; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (channels(colour)[3] === 255) return colour;
    }
    return "white";
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim() !== "");
    // What cannot be used now is left out by the rule too.
    if (!hasText || !element.checkVisibility() || element.closest("[aria-disabled=true], svg, noscript")) continue;
    const [a, b] = [luminance(getComputedStyle(element).color), luminance(groundOf(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(ratio.toFixed(2) + " " + element.className + " " + element.textContent.slice(0, 40));
  }
  return found;
})()`;
