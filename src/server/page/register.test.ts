import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Fastify from "fastify";
import { expect, test } from "vitest";
import { registerPage } from "./register.js";

const policy =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

function pageApp(files: Readonly<Record<string, string>>) {
  const folder = mkdtempSync(join(tmpdir(), "block-attention-page-"));
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
  const app = Fastify();
  const isPublic: (boolean | undefined)[] = [];
  app.addHook("onRoute", (route) => void isPublic.push(route.config?.isPublic));
  registerPage(app, folder);
  app.addHook("onClose", () => rmSync(folder, { recursive: true }));
  return { app, isPublic };
}

test("registerPage(): each file with its type, a policy that lets in nothing else, and no need of a key", async () => {
  const { app, isPublic } = pageApp({
    "index.html": "<p>é",
    "main-A1.js": "1",
    "style-B2.css": "p{}",
    "notes.map": "x",
  });
  const index = await app.inject("/");
  expect(index).toMatchObject({ statusCode: 200, body: "<p>é" });
  expect(index.headers).toMatchObject({
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": policy,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
  });
  const script = await app.inject("/assets/main-A1.js");
  expect(script).toMatchObject({ statusCode: 200, body: "1" });
  expect(script.headers).toMatchObject({
    "content-type": "text/javascript; charset=utf-8",
    "content-security-policy": policy,
    "cache-control": "public, max-age=31536000, immutable",
  });
  expect((await app.inject("/assets/style-B2.css")).headers["content-type"]).toBe("text/css; charset=utf-8");
  for (const path of ["/assets/notes.map", "/assets/index.html", "/assets/..%2f..%2fpackage.json", "/assets/"]) {
    expect((await app.inject(path)).statusCode).toBe(404);
  }
  expect((await app.inject({ method: "HEAD", url: "/" })).statusCode).toBe(200);
  expect(isPublic.length).toBeGreaterThanOrEqual(3);
  expect(isPublic.every(Boolean)).toBe(true);
  await app.close();
});

test("registerPage(): a file that the browser has is not sent again", async () => {
  const { app } = pageApp({ "index.html": "<p>" });
  const { etag } = (await app.inject("/")).headers;
  const again = await app.inject({ url: "/", headers: { "if-none-match": `"other", W/${etag}` } });
  expect(again).toMatchObject({ statusCode: 304, body: "" });
  expect((await app.inject({ url: "/", headers: { "if-none-match": '"other"' } })).statusCode).toBe(200);
  await app.close();
});

test("registerPage(): a page that is not built says so", async () => {
  for (const files of [{}, { "main-A1.js": "1" }]) {
    const { app, isPublic } = pageApp(files);
    const answer = await app.inject("/");
    expect(answer.statusCode).toBe(503);
    expect(answer.json().error.message).toContain(
      'Cannot show the page: its files are not built, wanted them from "npm',
    );
    expect(isPublic.every(Boolean)).toBe(true);
    await app.close();
  }
  const app = Fastify();
  registerPage(app, join(tmpdir(), "no such folder"));
  expect((await app.inject("/")).statusCode).toBe(503);
  await app.close();
});
