import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, renameSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";
import { beforeAll, beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { temporaryFolder } from "../src/files/test-files.suite.js";
import { buildDist, projectRoot } from "./build-dist.js";
import { chromiumPath } from "./server/chromium.js";

interface Passage {
  readonly heading: string;
  readonly page?: number;
  readonly text: string;
}
interface Document {
  readonly title: string;
  readonly passages: readonly Passage[];
}
interface Found extends Passage {
  readonly path: string;
}
interface Status {
  readonly phase: string;
  readonly documents: readonly {
    readonly path: string;
    readonly numPassages: number;
    readonly isEncoded: boolean;
    readonly problem?: string;
  }[];
  readonly skipped: readonly { readonly path: string; readonly problem: string }[];
}
type AskEvent =
  | {
      readonly kind: "passages";
      readonly passages: readonly (Found & { readonly title: string; readonly href: string })[];
    }
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "failed"; readonly message: string }
  | {
      readonly kind: "done";
      readonly cachedTokens: number;
      readonly promptTokens: number;
      readonly hits: readonly boolean[];
      readonly sentences: readonly { readonly text: string; readonly passage?: number }[];
    };

const place = (name: string) => join(projectRoot, "examples", "rag-app", name);
const load = (name: string) => import(pathToFileURL(place(name)).href);

/** A PDF of a page for each text, whose lines are parted by \n, as small as one can be. */
function pdfOf(pages: readonly string[], title = ""): string {
  const kids = pages.map((_, i) => `${4 + 2 * i} 0 R`).join(" ");
  const objects = [
    "<</Type/Catalog/Pages 2 0 R>>",
    `<</Type/Pages/Kids[${kids}]/Count ${pages.length}>>`,
    "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ...pages.flatMap((text, i) => {
      const shown = text.split("\n").map((line) => `(${line.replaceAll(/[()\\]/g, "\\$&")}) '`);
      const content = `BT /F1 12 Tf 14 TL 50 700 Td ${shown.join(" ")} ET`;
      return [
        `<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents ${5 + 2 * i} 0 R/Resources<</Font<</F1 3 0 R>>>>>>`,
        `<</Length ${content.length}>>stream\n${content}\nendstream`,
      ];
    }),
    `<</Title(${title})>>`,
  ];
  let file = "%PDF-1.4\n";
  const offsets = objects.map((object, i) => {
    const at = file.length;
    file += `${i + 1} 0 obj${object}endobj\n`;
    return `${String(at).padStart(10, "0")} 00000 n \n`;
  });
  const start = file.length;
  const trailer = `trailer<</Size ${objects.length + 1}/Root 1 0 R/Info ${objects.length} 0 R>>`;
  return `${file}xref\n0 ${objects.length + 1}\n0000000000 65535 f \n${offsets.join("")}${trailer}\nstartxref\n${start}\n%%EOF`;
}

const markdown = `---
title: "The engine's manual"
tags: [a, b]
---
Before any heading.

# Start

Turn the \`key_no_1\` once.

\`\`\`sh
# no heading, but code
start --now
\`\`\`

## In winter [see](x.md) **always**

<!-- not for readers -->
<p>Warm &amp; slow<script>alert(1)</script></p>

![picture](data:image/png;base64,AAAA)

# Stop

Wait.
`;
const html = `<!doctype html><head><title>Caf&eacute; &lt;menu&gt;</title><script>var secret = "<p>no</p>";</script>
<style>p { color: red }</style></head><body><nav>Home</nav><h1>Drinks</h1><p>Tea &amp; coffee,<br>milk &#x1F95B;.
<h2>Hot <em>ones</em></h2><ul><li>Espresso<li>Mocha</ul><pre>a
  b</pre><table><tr><th>Size<td>3</table><noscript>no script</noscript>`;

describe("documents.mjs", () => {
  let folder = "";
  let read: (path: string) => Promise<Document>;
  const written = async (name: string, content: string | Uint8Array) => {
    writeFileSync(join(folder, name), content);
    return await read(join(folder, name));
  };
  beforeEach(async () => {
    ({ readDocument: read } = await load("documents.mjs"));
    folder = await temporaryFolder();
  });

  test("Markdown: front matter, headings in headings, code, HTML", async () => {
    expect(await written("manual of größe 今日.md", markdown)).toEqual({
      title: "The engine's manual",
      passages: [
        { heading: "", text: "Before any heading." },
        { heading: "Start", text: "Turn the `key_no_1` once.\n\n```sh\n# no heading, but code\nstart --now\n```" },
        { heading: "Start > In winter see always", text: "Warm & slow\n\n![picture](" + ")" },
        { heading: "Stop", text: "Wait." },
      ],
    });
    // Without front matter the first heading is the title, and stands in no passage's headings.
    const { title, passages } = await written("plain.md", "# Top\n\none\n\n## Below\n\ntwo\n");
    expect([title, passages.map(({ heading }) => heading)]).toEqual(["Top", ["", "Below"]]);
  });

  test("HTML: what a reader sees, with entities, without scripts", async () => {
    expect(await written("menu.html", html)).toEqual({
      title: "Café <menu>",
      passages: [
        { heading: "Drinks", text: "Tea & coffee,\nmilk 🥛." },
        { heading: "Drinks > Hot ones", text: "- Espresso\n- Mocha\n\na\n  b\n\n | Size | 3" },
      ],
    });
    const latin = Buffer.from('<meta charset="iso-8859-1"><p>Gr\u00fc\u00dfe</p>', "latin1");
    expect((await written("latin.htm", latin)).passages).toEqual([{ heading: "", text: "Grüße" }]);
    // A browser shows all of it, however deep; so does a reader without recursion.
    const deep = await written("deep.html", `${"<div>".repeat(10_000)}deep${"</div>".repeat(10_000)}`);
    expect(deep.passages).toEqual([{ heading: "", text: "deep" }]);
  });

  test("PDF: a passage knows its page, words cut at a line's end are whole", async () => {
    const { title, passages } = await written(
      "a.pdf",
      pdfOf(["The mill was built (in 1871) of gran-\nite.", "It burned."], "Mill"),
    );
    expect(title).toBe("Mill");
    expect(passages).toEqual([
      { heading: "page 1", page: 1, text: "The mill was built (in 1871) of granite." },
      { heading: "page 2", page: 2, text: "It burned." },
    ]);
  });

  test("long sections are cut to size, and nothing is lost", async () => {
    const words = Array.from({ length: 3000 }, (_, i) => `w${i}`);
    const { passages } = await written("long.md", `# T\n\n${words.join(" ")}\n`);
    expect(passages.flatMap(({ text }) => text.split(" "))).toEqual(words);
    for (const { text } of passages) expect(text.length).toBeLessThanOrEqual(900);
    const { passages: emojis } = await written("emoji.md", "😀".repeat(2000));
    for (const { text } of emojis) expect(text.isWellFormed()).toBe(true);
  });

  test.each([
    ["empty.md", "", "it holds no text"],
    ["blank.html", "<script>1</script>", "it holds no text"],
    ["scan.pdf", pdfOf([""]), "it holds no text, as scans do not"],
    ["broken.pdf", "%PDF-1.4 and then nonsense", /^it is no PDF that can be read: /],
    ["zero.pdf", "", /^it is no PDF that can be read: /],
    ["latin.md", Buffer.from("Gr\u00fc\u00dfe", "latin1"), "its bytes are not UTF-8"],
    ["charset.html", '<meta charset="no-such">x', "its bytes are not NO-SUCH"],
    ["binary.md", "a\0b", "it is no text: it holds zero bytes"],
    ["many.md", "# h\n\nx\n\n".repeat(1001), "it has more than 1000 passages"],
  ])("%s: says what is wrong", async (name, content, message) => {
    await expect(written(name, content)).rejects.toThrow(message);
  });

  test("a file of 50 MB is refused before it is read", async () => {
    writeFileSync(join(folder, "huge.md"), "");
    truncateSync(join(folder, "huge.md"), 50_000_000);
    await expect(read(join(folder, "huge.md"))).rejects.toThrow("it has 50000000 bytes, at most 33554432 are read");
  });

  test("DocumentReader: reads as readDocument() does, and a file that takes too long ends alone", async () => {
    const { DocumentReader } = await load("documents.mjs");
    writeFileSync(join(folder, "manual.md"), markdown);
    writeFileSync(join(folder, "slow.md"), "*a ".repeat(3_000_000));
    const reader = new DocumentReader();
    onTestFinished(() => reader.close());
    expect(await reader.read(join(folder, "manual.md"))).toEqual(await read(join(folder, "manual.md")));
    const hasty = new DocumentReader({ limitMs: 50 });
    onTestFinished(() => hasty.close());
    await expect(hasty.read(join(folder, "slow.md"))).rejects.toThrow("it takes more than 0.05 s to read");
    const both = await Promise.allSettled([
      reader.read(join(folder, "none.md")),
      reader.read(join(folder, "manual.md")),
    ]);
    expect(both.map(({ status }) => status)).toEqual(["rejected", "fulfilled"]);
    // Whether it waits or has begun.
    const pending = [reader.read(join(folder, "slow.md")), reader.read(join(folder, "manual.md"))];
    const ended = Promise.allSettled(pending);
    await new Promise((resolve) => setTimeout(resolve, 20));
    await reader.close();
    for (const end of await ended)
      expect(end).toMatchObject({ status: "rejected", reason: new Error("reading it broke off") });
  });
});

describe("search-index.mjs", () => {
  interface SearchIndex {
    put(document: object): Promise<void>;
    delete(path: string): Promise<void>;
    documents(): Promise<{ path: string; numPassages: number; problem: string | null }[]>;
    search(query: { text: string; vector?: number[] }, limit: number): Promise<Found[]>;
    close(): void;
  }
  const passage = (text: string, vector?: number[]) => ({ heading: "", text, vector });
  const opened = async (folder: string): Promise<SearchIndex> => {
    const { SearchIndex } = await load("search-index.mjs");
    const index = await SearchIndex.open(join(folder, "new", "index.duckdb"));
    onTestFinished(() => index.close());
    return index;
  };

  test("termsOf(): case, accents, endings and identifiers", async () => {
    const { termsOf } = await load("search-index.mjs");
    expect(termsOf("Größen, DELETED keep_prefixes 7b 今日は 😀!")).toEqual([
      "große",
      "delet",
      "keep",
      "prefi",
      "7b",
      "今日",
      "は",
    ]);
  });

  test("finds by words, rare ones first, and by vectors where there are some", async () => {
    const index = await opened(await temporaryFolder());
    await index.put({
      ...{ path: "a.md", signature: "1", title: "Mills" },
      passages: [passage("the mill grinds the corn", [1, 0]), passage("the river drives the wheel", [0, 1])],
    });
    await index.put({
      path: "b.md",
      signature: "1",
      title: "Ships",
      passages: [passage("the ship is on the river", [1, 1])],
    });
    const found = async (text: string, vector?: number[]) =>
      (await index.search({ text, ...(vector && { vector }) }, 2)).map((one) =>
        one.text.split(" ").slice(1, 3).join(" "),
      );
    expect(await found("What do the rivers' wheels do?")).toEqual(["river drives", "ship is"]);
    expect(await found("grinding mills")).toEqual(["mill grinds", "river drives"]);
    expect(await found("?!")).toEqual([]);
    expect(await found("zebra")).toEqual([]);
    expect(await found("any", [0.1, 1])).toEqual(["river drives", "ship is"]);
    // Of another encoder.
    expect(await found("any", [1, 0, 0])).toEqual([]);
    // Many at once, while a document is being replaced.
    const [lists] = await Promise.all([
      Promise.all(Array.from({ length: 50 }, () => found("ship river"))),
      index.put({ path: "a.md", signature: "2", title: "Mills", passages: [passage("the miller sleeps")] }),
    ]);
    for (const list of lists) expect(list[0]).toBe("ship is");
    expect(await found("corn wheel")).toEqual([]);
    await index.delete("b.md");
    expect(await found("river")).toEqual([]);
    expect((await index.documents()).map(({ path, numPassages }) => [path, numPassages])).toEqual([["a.md", 1]]);
  });

  test("a document is there whole or not at all, and is there for the next process", async () => {
    const folder = await temporaryFolder();
    const index = await opened(folder);
    await index.put({ path: "a.md", signature: "1", title: "Mills", passages: [passage("corn")] });
    const bad = [passage("wheat"), { heading: "", text: { not: "a text" } }];
    await expect(index.put({ path: "a.md", signature: "2", title: "Mills", passages: bad })).rejects.toThrow();
    expect((await index.search({ text: "corn" }, 5)).map(({ path }) => path)).toEqual(["a.md"]);
    await index.put({ path: "b.md", signature: "1", problem: "it is broken" });
    index.close();
    const again = await opened(folder);
    expect(await again.documents()).toMatchObject([
      { path: "a.md", numPassages: 1, problem: null },
      { path: "b.md", numPassages: 0, problem: "it is broken" },
    ]);
    expect(await again.search({ text: "wheat" }, 5)).toEqual([]);
  });

  test("an index that is no database is an error that says so", async () => {
    const folder = await temporaryFolder();
    mkdirSync(join(folder, "new"));
    writeFileSync(join(folder, "new", "index.duckdb"), "nonsense".repeat(2000));
    await expect(opened(folder)).rejects.toThrow(
      /^Cannot open the index ".*index.duckdb": .*\(removed, it is made anew\)$/,
    );
  });
});

describe("corpus.mjs", () => {
  interface Corpus {
    update(): Promise<void>;
    start(): void;
    close(): Promise<void>;
    status(): Promise<Status>;
    retrieve(question: string, turns: readonly { question: string }[], limit: number): Promise<Found[]>;
  }
  /** Keeps what a server would, by id. */
  class FakeBackend {
    encoder = "";
    model = "fake";
    readonly blocks = new Map<string, { digest: string; texts: string[] }>();
    readonly sent: string[] = [];
    numListed = 0;
    onKeep: (texts: string[], signal: AbortSignal) => Promise<void> = async () => undefined;

    async kept(prefix: string) {
      this.numListed++;
      const own = [...this.blocks].filter(([id]) => id.startsWith(prefix));
      return new Map(own.map(([id, { digest }]) => [id, digest]));
    }
    async keep(id: string, digest: string, passages: Passage[], onPassage: () => void, signal: AbortSignal) {
      const texts = passages.map(({ text }) => text);
      await this.onKeep(texts, signal);
      for (const _ of texts) onPassage();
      this.sent.push(...texts);
      this.blocks.set(id, { digest, texts });
    }
    async forget(id: string) {
      this.blocks.delete(id);
    }
    async embed(texts: string[]) {
      return texts.map((text) => [Number(text.includes("mill")), Number(text.includes("ship")), 0.1]);
    }
    get texts() {
      return [...this.blocks.values()].flatMap(({ texts }) => texts).sort();
    }
  }
  let folder = "";
  let backend: FakeBackend;
  let data = "";
  const write = (path: string, content: string | Uint8Array) => writeFileSync(join(folder, path), content);
  /** A run of the application over what the last one has left. */
  const opened = async (): Promise<Corpus & { end(): Promise<void> }> => {
    const [{ Corpus, realFolder }, { SearchIndex }, { DocumentReader }] = await Promise.all(
      ["corpus.mjs", "search-index.mjs", "documents.mjs"].map(load),
    );
    const index = await SearchIndex.open(join(data, "index.duckdb"));
    const corpus = new Corpus({ folder: await realFolder(folder), index, backend, reader: new DocumentReader() });
    let hasEnded = false;
    corpus.end = async () => {
      if (hasEnded) return;
      hasEnded = true;
      await corpus.close();
      index.close();
    };
    onTestFinished(() => corpus.end());
    return corpus;
  };
  beforeEach(async () => {
    [folder, data] = await Promise.all([temporaryFolder(), temporaryFolder()]);
    backend = new FakeBackend();
  });

  test("what is added, changed and removed is followed, by the index and by the blocks; what cannot be read is told", async () => {
    write("a.md", "the mill");
    write("b with größe 今日.html", "<p>the ship</p>");
    write("broken.pdf", "%PDF-1.4 nonsense");
    write("notes.txt", "no document");
    mkdirSync(join(folder, "below"));
    write("below/c.pdf", pdfOf(["the river"]));
    mkdirSync(join(folder, ".git"));
    write(".git/d.md", "hidden");
    symlinkSync(folder, join(folder, "below", "loop.md"));
    symlinkSync("..", join(folder, "below", "up"));
    const corpus = await opened();
    await corpus.update();
    expect(await corpus.status()).toMatchObject({
      phase: "ready",
      documents: [
        { path: "a.md", numPassages: 1, isEncoded: true },
        { path: "b with größe 今日.html", numPassages: 1, isEncoded: true },
        { path: "below/c.pdf", numPassages: 1, isEncoded: true },
        { path: "broken.pdf", numPassages: 0, isEncoded: false, problem: expect.stringMatching(/^it is no PDF/) },
      ],
      skipped: [{ path: "below/loop.md", problem: "symbolic links are not followed" }],
    });
    expect(backend.texts).toEqual(["the mill", "the river", "the ship"]);
    // Several changes at once.
    write("a.md", "the windmill");
    rmSync(join(folder, "below/c.pdf"));
    renameSync(join(folder, "b with größe 今日.html"), join(folder, "moved.html"));
    write("broken.pdf", pdfOf(["the whole lake"]));
    await corpus.update();
    expect(backend.texts).toEqual(["the ship", "the whole lake", "the windmill"]);
    expect((await corpus.retrieve("windmill lake river ship", [], 9)).map(({ path }) => path).sort()).toEqual([
      "a.md",
      "broken.pdf",
      "moved.html",
    ]);
    // Touched alone: nothing is sent.
    const numSent = backend.sent.length;
    write("a.md", "the windmill");
    await corpus.update();
    expect(backend.sent).toHaveLength(numSent);
    // From readable to broken.
    write("a.md", "");
    await corpus.update();
    expect(backend.texts).toEqual(["the ship", "the whole lake"]);
  });

  test("what was interrupted goes on the next time, and what was done is not done again", async () => {
    for (const name of ["a", "b", "c"]) write(`${name}.md`, `the ${name} text`);
    const begun = new Promise<void>((resolve) => {
      backend.onKeep = async ([text], signal) => {
        if (text !== "the b text") return;
        resolve();
        await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
      };
    });
    const first = await opened();
    first.start();
    await begun;
    await first.end();
    expect(backend.texts).toEqual(["the a text"]);
    backend.onKeep = async () => undefined;
    // Changed while nothing ran.
    write("c.md", "the new c text");
    rmSync(join(folder, "a.md"));
    const second = await opened();
    await second.update();
    expect(backend.texts).toEqual(["the b text", "the new c text"]);
    expect(backend.sent).toEqual(["the a text", "the b text", "the new c text"]);
  });

  test("a server that fails is asked again, and what it has lost meanwhile is sent again", async () => {
    write("a.md", "the mill");
    write("b.md", "the ship");
    const corpus = await opened();
    corpus.start();
    await expect.poll(async () => (await corpus.status()).phase).toBe("ready");
    backend.onKeep = async () => {
      backend.onKeep = async () => undefined;
      backend.blocks.clear();
      throw new Error("Cannot reach the server");
    };
    write("b.md", "the large ship");
    await expect.poll(async () => (await corpus.status()).phase).toBe("failed");
    await expect.poll(() => backend.texts, { timeout: 20_000 }).toEqual(["the large ship", "the mill"]);
    expect(backend.numListed).toBe(2);
  }, 240_000);

  test("vectors find where the server has an encoder; another encoder makes them anew", async () => {
    write("a.md", "the mill");
    write("b.md", "the ship");
    const words = await opened();
    await words.update();
    expect(await words.retrieve("ships", [], 1)).toEqual([]);
    await words.end();
    backend.encoder = "mini";
    const corpus = await opened();
    await corpus.update();
    expect((await corpus.retrieve("ship", [], 1)).map(({ path }) => path)).toEqual(["b.md"]);
    // A question that goes on has the one before beside it.
    const both = await corpus.retrieve("and where is it?", [{ question: "a mill" }], 2);
    expect(both.map(({ path }) => path)).toContain("a.md");
    // The same text has the same blocks.
    expect(backend.sent).toEqual(["the mill", "the ship"]);
  });

  test("a folder that is none, and one that has gone, are errors: nothing is forgotten", async () => {
    const { realFolder } = await load("corpus.mjs");
    write("a.md", "the mill");
    await expect(realFolder(join(folder, "none"))).rejects.toThrow(/^Cannot read the folder ".*none": ENOENT$/);
    await expect(realFolder(join(folder, "a.md"))).rejects.toThrow(/: it is no folder$/);
    const corpus = await opened();
    await corpus.update();
    renameSync(folder, `${folder}-away`);
    onTestFinished(() => rmSync(`${folder}-away`, { recursive: true, force: true }));
    await expect(corpus.update()).rejects.toThrow(/^Cannot read the folder/);
    expect(backend.texts).toEqual(["the mill"]);
  });
});

const executablePath = chromiumPath();
const noBrowser = executablePath === undefined ? " (skipped: no Chromium here; CHROMIUM_PATH names one)" : "";

describe("npm run rag-app", () => {
  beforeAll(buildDist, 120_000);

  /** The application as a process of its own, at a free port. */
  class App {
    output = "";

    private constructor(
      readonly url: string,
      private readonly child: ChildProcess,
    ) {}

    static async start(...args: string[]): Promise<App> {
      const child = spawn(process.execPath, [place("app.mjs"), "--port", "0", ...args]);
      let errors = "";
      child.stderr.on("data", (text) => {
        errors += text;
      });
      const lines = createInterface(child.stdout);
      const url = await new Promise<string>((resolve, reject) => {
        child.once("exit", (code) => reject(new Error(`${code} ${errors}`)));
        lines.on("line", (line) => {
          const [, at] = /^Answering over .* at (\S+)$/.exec(line) ?? [];
          if (at) resolve(at);
        });
      });
      const app = new App(url, child);
      lines.on("line", (line) => {
        app.output += `${line}\n`;
      });
      onTestFinished(async () => {
        await app.end("SIGTERM");
      });
      return app;
    }

    async end(signal: NodeJS.Signals) {
      if (this.child.exitCode !== null || this.child.signalCode !== null) return this.child.exitCode;
      const exited = once(this.child, "exit");
      this.child.kill(signal);
      return (await exited)[0] as number | null;
    }

    async status(): Promise<Status> {
      return (await (await fetch(`${this.url}/api/status`)).json()) as Status;
    }

    async ready(paths: readonly string[]) {
      const encoded = async () => {
        const { phase, documents } = await this.status();
        return [phase, ...documents.flatMap(({ path, isEncoded }) => (isEncoded ? [path] : []))];
      };
      await expect.poll(encoded, { timeout: 200_000 }).toEqual(["ready", ...paths]);
    }

    post(body: unknown, headers: Record<string, string> = { "content-type": "application/json" }) {
      const text = typeof body === "string" ? body : JSON.stringify(body);
      return fetch(`${this.url}/api/ask`, { method: "POST", headers, body: text });
    }

    async ask(question: string, turns: readonly object[] = []) {
      const text = await (await this.post({ question, turns })).text();
      const events: AskEvent[] = text
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line));
      const [first, last] = [events[0], events.at(-1)];
      if (first?.kind !== "passages" || last?.kind !== "done") throw new Error(`the answer is ${text}`);
      const answer = events.map((event) => (event.kind === "text" ? event.text : "")).join("");
      return { ...last, answer, passages: first.passages };
    }
  }

  const texts = {
    "films/Into the Wild.md":
      "# Into the Wild\n\nInto the Wild is a 2007 American adventure drama film directed by Sean Penn and starring Emile Hirsch.\n",
    "Sean Penn.html":
      "<title>Sean Penn</title><script>alert(1)</script><p>Sean Penn (born 17 August 1960 in Santa Monica) is an American film director. He is the son of actress Eileen Ryan and director Leo Penn.</p>",
    "kahlo.pdf": pdfOf(["Frida Kahlo was a Mexican painter.", "She was born in Mexico City."], "Frida Kahlo"),
    "broken.pdf": "%PDF-1.4 nonsense",
  };
  const readable = ["Sean Penn.html", "films/Into the Wild.md", "kahlo.pdf"];
  const question = "Who is the mother of the director of film Into the Wild?";
  let folder = "";
  let args: string[] = [];
  beforeEach(async () => {
    folder = await temporaryFolder();
    mkdirSync(join(folder, "films"));
    for (const [path, text] of Object.entries(texts)) writeFileSync(join(folder, path), text);
    args = [folder, "--model", join(projectRoot, "models/tiny-rag"), "--data", await temporaryFolder()];
  });

  test("answers with passages, follows changes, and has all from the store after a restart", async () => {
    const app = await App.start(...args);
    await app.ready(readable);
    const first = await app.ask(question);
    expect(first.answer).toMatch(/Eileen Ryan\.$/);
    // Encoded ahead: all passages are hits.
    expect(first.hits).toEqual(first.passages.map(() => true));
    const cited = first.sentences.find(({ text }) => text.includes("Eileen Ryan"))?.passage as number;
    expect(first.passages[cited - 1]).toMatchObject({ path: "Sean Penn.html", href: "/files/Sean%20Penn.html" });
    const pdf =
      first.passages.find(({ path }) => path === "kahlo.pdf") ?? (await app.ask("Who is Frida Kahlo?")).passages[0];
    expect(pdf?.href).toMatch(/^\/files\/kahlo\.pdf#page=\d$/);
    const second = await app.ask("When was he born?", [{ question, answer: first.answer }]);
    expect(second.passages.map(({ path }) => path)).toContain("Sean Penn.html");
    expect(second.cachedTokens).toBeGreaterThan(0);
    // The file itself, as text.
    const file = await fetch(`${app.url}/files/Sean%20Penn.html`);
    expect([file.headers.get("content-type"), await file.text()]).toEqual([
      "text/plain; charset=utf-8",
      texts["Sean Penn.html"],
    ]);

    writeFileSync(join(folder, "Sean Penn.html"), texts["Sean Penn.html"].replace("Eileen Ryan", "Maggie Gyllenhaal"));
    rmSync(join(folder, "kahlo.pdf"));
    await app.ready(readable.slice(0, 2));
    const changed = await app.ask(question);
    expect(changed.answer).toContain("Maggie Gyllenhaal");
    expect(changed.hits).toEqual(changed.passages.map(() => true));
    expect((await app.ask("Who is Frida Kahlo?")).passages.map(({ path }) => path)).not.toContain("kahlo.pdf");
    const broken = (await app.status()).documents.find(({ path }) => path === "broken.pdf");
    expect(broken?.problem).toMatch(/^it is no PDF/);
    expect(await app.end("SIGINT")).toBe(0);

    const again = await App.start(...args);
    await again.ready(readable.slice(0, 2));
    // Nothing was read or encoded again.
    expect(again.output).not.toMatch(/^(read|encoded)/m);
    const after = await again.ask(question);
    expect(after.answer).toBe(changed.answer);
    expect(after.hits).toEqual(after.passages.map(() => true));
    expect(after.cachedTokens).toBeGreaterThan(after.promptTokens / 2);
  }, 240_000);

  test("Ctrl-C while documents are encoded loses nothing, and the next start goes on", async () => {
    for (let i = 0; i < 40; i++) {
      writeFileSync(join(folder, `many ${i}.md`), `# Number ${i}\n\n${`The number ${i} is here. `.repeat(150)}\n`);
    }
    const app = await App.start(...args);
    const numEncoded = async () => (await app.status()).documents.filter(({ isEncoded }) => isEncoded).length;
    await expect.poll(numEncoded, { timeout: 200_000, interval: 20 }).toBeGreaterThan(2);
    const before = await numEncoded();
    expect(before).toBeLessThan(43);
    expect(await app.end("SIGINT")).toBe(0);
    const again = await App.start(...args);
    await expect
      .poll(async () => (await again.status()).documents.filter(({ isEncoded }) => isEncoded).length, {
        timeout: 200_000,
      })
      .toBe(43);
    expect(again.output).not.toMatch(/^read/m);
  }, 240_000);

  test("refuses what is no question, what is no document, and other hosts", async () => {
    const app = await App.start(...args);
    await app.ready(readable);
    const refusal = async (answer: Promise<Response>) => {
      return [(await answer).status, ((await (await answer).json()) as { error: string }).error] as const;
    };
    for (const body of [
      {},
      { question: " " },
      { question: "x".repeat(4001) },
      { question: "\ud800" },
      { question: 7 },
    ]) {
      expect(await refusal(app.post(body))).toEqual([
        400,
        "Cannot ask: the question is a text of 1 to 4000 characters",
      ]);
    }
    expect((await refusal(app.post({ question: "a", turns: [{}] })))[0]).toBe(400);
    expect((await refusal(app.post("{")))[0]).toBe(400);
    expect((await refusal(app.post("a=b", { "content-type": "text/plain" })))[0]).toBe(415);
    expect((await refusal(app.post(`{"question":"${"x".repeat(300_000)}"}`)))[0]).toBe(413);
    for (const path of ["broken.txt", "..%2F..%2Fetc%2Fpasswd", "%2e%2e/secret", "films", "%ff"]) {
      const { status } = await fetch(`${app.url}/files/${path}`);
      expect([400, 404]).toContain(status);
    }
    // A document that has become a link out of the folder.
    const secret = join(await temporaryFolder(), "secret.md");
    writeFileSync(secret, "secret");
    rmSync(join(folder, "kahlo.pdf"));
    symlinkSync(secret, join(folder, "kahlo.pdf"));
    expect((await fetch(`${app.url}/files/kahlo.pdf`)).status).toBe(404);
    const rebound = request(`${app.url}/api/status`, { headers: { host: "evil.example" } }).end();
    const [{ statusCode }] = await once(rebound, "response");
    expect(statusCode).toBe(403);
  }, 240_000);

  test.each([
    [["--port", "x"], /^Cannot listen: the port is "x", wanted 0 to 65535\n$/],
    [["--nonsense"], /^Cannot go on: Unknown option '--nonsense'.*\n$/],
    [["no such folder"], /^Cannot read the folder ".*no such folder": ENOENT\n$/],
    [["a", "b"], /^Cannot read the documents: 2 folders are named, wanted one\n$/],
    [["--base-url", "http://x", "--model", "m"], /^Cannot use --model: the server at --base-url has its own\n$/],
    [["--base-url", "http://127.0.0.1:1"], /^Cannot use the server at "http:\/\/127\.0\.0\.1:1": \S.*\n$/],
    [["--base-url", "x"], /^Cannot use --base-url: "x" is no URL\n$/],
    [["--model", "no such model"], /\nCannot .*no such model.*\nCannot start the server: it ended with code 1\n$/],
  ])(
    "%j: says in a line what is wrong",
    async (own, message) => {
      const child = spawn(process.execPath, [place("app.mjs"), "--data", await temporaryFolder(), ...own]);
      let errors = "";
      child.stderr.on("data", (text) => {
        errors += text;
      });
      expect([(await once(child, "close"))[0], errors]).toEqual([1, expect.stringMatching(message)]);
    },
    240_000,
  );

  test.skipIf(executablePath === undefined)(
    `in Chromium, by keyboard alone${noBrowser}`,
    async () => {
      writeFileSync(
        join(folder, "markup.md"),
        "# Markup <img src=x onerror=alert(1)>\n\nThe zebra says <script>alert(2)</script> `<b>bold</b>` always.\n",
      );
      const app = await App.start(...args);
      await app.ready([readable[0] as string, readable[1] as string, "kahlo.pdf", "markup.md"]);
      const noSandbox = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
      const browser = await chromium.launch({ executablePath: executablePath as string, args: noSandbox });
      onTestFinished(() => browser.close());
      const page = await browser.newPage();
      page.setDefaultTimeout(20_000);
      const troubles: string[] = [];
      page.on("console", (message) => message.type() === "error" && troubles.push(message.text()));
      page.on("pageerror", (error) => troubles.push(String(error)));
      page.on("dialog", (dialog) => troubles.push(dialog.message()));
      await page.goto(app.url);
      await page.getByText("All documents are read and encoded.").waitFor();
      const documents = page.getByRole("list", { name: "Documents" }).getByRole("listitem");
      expect(await documents.allTextContents()).toContain("kahlo.pdf 2 passages, encoded");
      expect((await documents.allTextContents()).find((text) => text.startsWith("broken.pdf"))).toMatch(/it is no PDF/);
      // The question has the focus from the start, and again after an answer.
      await page.keyboard.type(question);
      await page.keyboard.press("Enter");
      const turn = page.getByRole("article", { name: "Question 1" });
      await turn.getByText(/tokens from the store/).waitFor();
      expect(await turn.locator(".answer").textContent()).toMatch(/Eileen Ryan\. \[\d\]/);
      expect(await turn.getByText(/^First token after/).textContent()).toMatch(
        /^First token after \d+ ms\. \d+ of \d+ tokens from the store \(block mode\)\.$/,
      );
      const passages = turn.getByRole("list", { name: "Passages" }).getByRole("listitem");
      expect(await passages.first().textContent()).toContain("from the store");
      expect(await page.getByRole("status").textContent()).toBe("Answer to question 1 is there");
      await page.waitForFunction('document.activeElement?.id === "question"');
      await page.keyboard.type("What does the zebra always say?");
      await page.keyboard.press("Enter");
      const next = page.getByRole("article", { name: "Question 2" });
      await next.getByText(/tokens from the store/).waitFor();
      const shown = next.getByRole("listitem").filter({ hasText: "markup.md" });
      expect(await shown.textContent()).toContain("<script>alert(2)</script> `<b>bold</b>`");
      expect(await shown.locator("img, script, b").count()).toBe(0);
      // A citation leads to its passage.
      await turn
        .getByRole("link", { name: /^Passage \d$/ })
        .first()
        .press("Enter");
      expect(new URL(page.url()).hash).toMatch(/^#passage-1-\d$/);
      await page.getByRole("button", { name: "New conversation" }).press("Enter");
      expect(await page.getByRole("article").count()).toBe(0);
      expect(troubles).toEqual([]);
    },
    240_000,
  );
});
