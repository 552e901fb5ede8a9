// Takes the pictures of the server's page in docs/images: the real server with the default model, asked by a browser.
// `npm run build`, then `node scripts/screenshot-page.mjs [FOLDER]`; CHROMIUM_PATH names a Chromium.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const folder = resolve(process.argv[2] ?? join(root, "docs", "images"));
const executablePath = process.env.CHROMIUM_PATH || "/usr/bin/chromium";

/** A fresh server, so that the first time is one. */
async function withServer(work) {
  const cli = join(root, "dist", "cli", "main.js");
  const server = spawn(process.execPath, [cli, "serve", "--port", "0", "--threads", "1"], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  const ended = once(server, "exit");
  try {
    const [line] = await Promise.race([once(createInterface(server.stdout), "line"), ended]);
    const url = /^Listening on (\S+)$/.exec(line)?.[1];
    if (url === undefined) throw new Error(`Cannot take pictures: the server ended with ${line}`);
    await work(url);
  } finally {
    server.kill();
    await ended;
  }
}

async function photograph(browser, colorScheme, url) {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 }, colorScheme });
  const ask = async () => {
    await page.getByRole("button", { name: "Ask", exact: true }).click();
    await page.locator("[data-run=done]").waitFor();
  };
  await page.goto(url);
  await page.locator("[data-connection=connected]").waitFor();
  await page.getByLabel("Full attention").check();
  // The first request pays for what a server does only once.
  for (let i = 0; i < 3; i++) await ask();
  await page.getByLabel("Block attention").check();
  await ask();
  await page.getByRole("button", { name: "Move Selma Lagerlöf up" }).click();
  for (let i = 0; i < 4; i++) {
    await ask();
    await page.waitForTimeout(1_500);
  }
  await page.getByRole("button", { name: "Measure all three" }).click();
  await page.locator("[data-measured='5']").waitFor();
  await page.getByRole("button", { name: "Measure all three" }).waitFor();
  await page.mouse.move(0, 0);
  await page.evaluate("document.activeElement.blur()");
  await page.screenshot({ path: join(folder, `playground-${colorScheme}.png`), fullPage: true });
  await page.close();
}

mkdirSync(folder, { recursive: true });
const args = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
const browser = await chromium.launch({ executablePath, args });
try {
  for (const scheme of ["light", "dark"]) await withServer((url) => photograph(browser, scheme, url));
} finally {
  await browser.close();
}
