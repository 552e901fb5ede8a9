// Files become passages: Markdown, HTML and PDF are cut at headings or pages, then to size. Files are read in a thread, which is
// ended where one takes too long or too much memory: a broken file is told of, and the others go on.
import { open } from "node:fs/promises";
import { basename, extname } from "node:path";
import { isMainThread, parentPort, Worker } from "node:worker_threads";
import { RecursiveCharacterTextSplitter } from "@langchain/textsplitters";
import { Parser } from "htmlparser2";
import { lexer } from "marked";

const maxBytes = 32 * 1024 * 1024;
/** What the server takes of one document in one request, with room to spare. */
const maxPassages = 1_000;
const passageChars = 900;

const kinds = { ".md": "markdown", ".markdown": "markdown", ".html": "html", ".htm": "html", ".pdf": "pdf" };

/** "markdown", "html" or "pdf"; undefined of a file that is none of them. */
export function kindOf(path) {
  return kinds[extname(path).toLowerCase()];
}

const splitter = new RecursiveCharacterTextSplitter({
  chunkSize: passageChars,
  chunkOverlap: 0,
  separators: ["\n\n", "\n", ". ", " ", ""],
});

/**
 * Reads a file in this thread.
 * @returns {Promise<{ title: string, passages: { heading: string, page?: number, text: string }[] }>}
 * @throws Error that says what is wrong with the file.
 */
export async function readDocument(path) {
  const bytes = await readBytes(path);
  const kind = kindOf(path);
  const { title, sections } = kind === "pdf" ? await readPdf(bytes) : readText(bytes, kind);
  const passages = [];
  for (const { heading, page, text } of sections) {
    const clean = tidy(text);
    if (clean === "") continue;
    for (const part of await splitter.splitText(clean)) {
      // A cut may fall within a character.
      const whole = part.toWellFormed().trim();
      if (whole !== "") passages.push({ heading: oneLine(heading), ...(page && { page }), text: whole });
    }
    if (passages.length > maxPassages) throw new Error(`it has more than ${maxPassages} passages`);
  }
  if (passages.length === 0) throw new Error(kind === "pdf" ? "it holds no text, as scans do not" : "it holds no text");
  return { title: oneLine(title) || basename(path), passages };
}

async function readBytes(path) {
  const file = await open(path);
  try {
    const stat = await file.stat();
    if (!stat.isFile()) throw new Error("it is no file");
    if (stat.size > maxBytes) throw new Error(`it has ${stat.size} bytes, at most ${maxBytes} are read`);
    return await file.readFile();
  } finally {
    await file.close();
  }
}

function readText(bytes, kind) {
  const text = decode(bytes, kind).replaceAll("\r\n", "\n");
  if (text.includes("\0")) throw new Error("it is no text: it holds zero bytes");
  return kind === "html" ? readHtml(text) : readMarkdown(text);
}

/** UTF-8, or what a byte order mark or HTML's own `charset` names. */
function decode(bytes, kind) {
  const [first, second] = bytes;
  let encoding = "utf-8";
  if (first === 0xff && second === 0xfe) encoding = "utf-16le";
  else if (first === 0xfe && second === 0xff) encoding = "utf-16be";
  else if (kind === "html") {
    encoding = /<meta[^>]+charset=["']?([\w-]+)/i.exec(bytes.subarray(0, 1024).toString("latin1"))?.[1] ?? encoding;
  }
  try {
    return new TextDecoder(encoding, { fatal: true }).decode(bytes);
  } catch {
    throw new Error(`its bytes are not ${encoding.toUpperCase()}`);
  }
}

/** The headings over a place, from the outermost on. */
class Headings {
  #stack = [];

  enter(depth, text) {
    this.#stack = [...this.#stack.filter((one) => one.depth < depth), { depth, text }];
  }

  /** Without the document's own title, which stands before it. */
  below(title) {
    const texts = this.#stack.map(({ text }) => text);
    return (texts[0] === title ? texts.slice(1) : texts).join(" > ");
  }

  get outermost() {
    return this.#stack[0]?.text;
  }
}

export function readMarkdown(source) {
  const [whole = "", front = ""] = /^\uFEFF?---\n([\s\S]*?)\n---(?:\n|$)/.exec(source) ?? [];
  let title = /^title: *["']?(.*?)["']? *$/m.exec(front)?.[1];
  const headings = new Headings();
  const sections = [{ heading: "", text: "" }];
  for (const token of lexer(source.slice(whole.length))) {
    if (token.type === "heading") {
      headings.enter(token.depth, inlineText(token.tokens));
      title ??= headings.outermost;
      sections.push({ heading: headings.below(title), text: "" });
    } else {
      const text = token.type === "html" ? htmlText(token.raw) : token.raw;
      // Pictures within the text are no text.
      sections.at(-1).text += text.replaceAll(/\(data:[^)\s]*/g, "(");
    }
  }
  return { title: title ?? "", sections };
}

function inlineText(tokens) {
  return tokens.map((token) => (token.tokens ? inlineText(token.tokens) : (token.text ?? ""))).join("");
}

const htmlText = (html) =>
  readHtml(html)
    .sections.map(({ text }) => text)
    .join("\n");

const unseen = new Set(
  ["script", "style", "template", "noscript", "svg", "math", "iframe", "object", "canvas", "select", "textarea"].concat(
    ["button", "nav", "head"],
  ),
);
const inline = new Set(
  [
    "a",
    "abbr",
    "b",
    "bdi",
    "bdo",
    "cite",
    "code",
    "data",
    "del",
    "dfn",
    "em",
    "font",
    "i",
    "ins",
    "kbd",
    "label",
  ].concat(["mark", "q", "s", "samp", "small", "span", "strong", "sub", "sup", "time", "u", "var", "wbr"]),
);

export function readHtml(source) {
  let title = "";
  const headings = new Headings();
  const sections = [{ heading: "", text: "" }];
  let isTitle = false;
  /** Text of the heading that is open. */
  let headingText;
  let numUnseen = 0;
  let numPre = 0;
  const add = (text) => {
    if (headingText !== undefined) headingText += text;
    else sections.at(-1).text += text;
  };
  const parser = new Parser({
    onopentagname(name) {
      // A browser shows what stands in a body, also where the head is not closed.
      if (name === "body") numUnseen = 0;
      if (unseen.has(name)) numUnseen++;
      if (name === "title") isTitle = title === "";
      if (numUnseen > 0) return;
      if (name === "pre") numPre++;
      if (/^h[1-6]$/.test(name)) headingText = "";
      else if (name === "li") add("\n- ");
      else if (name === "td" || name === "th") add(" | ");
      else if (name === "br" || name === "tr") add("\n");
      else if (!inline.has(name)) add("\n\n");
    },
    onclosetag(name) {
      if (name === "title") isTitle = false;
      if (unseen.has(name) && numUnseen > 0) numUnseen--;
      if (numUnseen > 0) return;
      if (name === "pre" && numPre > 0) numPre--;
      if (/^h[1-6]$/.test(name) && headingText !== undefined) {
        headings.enter(Number(name[1]), oneLine(headingText));
        headingText = undefined;
        sections.push({ heading: headings.below(title.trim()), text: "" });
      } else if (["p", "pre", "ul", "ol", "table", "div"].includes(name)) add("\n\n");
    },
    ontext(text) {
      if (isTitle) title += text;
      else if (numUnseen === 0) add(numPre > 0 ? text : text.replaceAll(/\s+/g, " "));
    },
  });
  parser.end(source);
  if (headingText !== undefined) sections.at(-1).text += headingText;
  return { title: title || headings.outermost || "", sections };
}

/** A page is a section. */
async function readPdf(bytes) {
  const { extractText, getDocumentProxy, getMeta } = await import("unpdf");
  let pdf;
  try {
    pdf = await getDocumentProxy(new Uint8Array(bytes), { verbosity: 0, isEvalSupported: false });
  } catch (error) {
    throw new Error(`it is no PDF that can be read: ${error.message}`);
  }
  try {
    const { text } = await extractText(pdf, { mergePages: false });
    const title = (await getMeta(pdf).catch(() => undefined))?.info?.Title;
    const sections = text.map((page, i) => ({
      heading: `page ${i + 1}`,
      page: i + 1,
      // Words that a line's end has cut.
      text: page.replaceAll(/(\p{L})-\n(\p{Ll})/gu, "$1$2"),
    }));
    return { title: typeof title === "string" ? title : "", sections };
  } finally {
    await pdf.destroy();
  }
}

/** Without control characters, trailing blanks and runs of empty lines. */
function tidy(text) {
  return text
    .toWellFormed()
    .replaceAll(/[^\P{Cc}\n\t]/gu, "")
    .replaceAll(/[ \t]+\n/g, "\n")
    .replaceAll(/\n{3,}/g, "\n\n")
    .trim();
}

function oneLine(text) {
  return tidy(text).replaceAll(/\s+/g, " ").slice(0, 200).toWellFormed();
}

/** Reads files in a thread, one after another. */
export class DocumentReader {
  #worker;
  #limitMs;
  #turn = Promise.resolve();
  #isClosed = false;

  /** @param options limitMs: how long one file may take. */
  constructor({ limitMs = 60_000 } = {}) {
    this.#limitMs = limitMs;
  }

  /** As readDocument(). @throws Error that says what is wrong with the file. */
  read(path) {
    const read = this.#turn.then(() => this.#read(path));
    this.#turn = read.catch(() => undefined);
    return read;
  }

  #read(path) {
    if (this.#isClosed) throw new Error("reading it broke off");
    this.#worker ??= new Worker(new URL(import.meta.url), { resourceLimits: { maxOldGenerationSizeMb: 1024 } });
    const worker = this.#worker;
    return new Promise((resolve, reject) => {
      const end = (error) => {
        this.#worker = undefined;
        void worker.terminate();
        reject(error);
      };
      const timer = setTimeout(
        () => end(new Error(`it takes more than ${this.#limitMs / 1000} s to read`)),
        this.#limitMs,
      );
      worker.removeAllListeners();
      worker.once("exit", () => {
        clearTimeout(timer);
        end(new Error("reading it broke off"));
      });
      worker.once("error", (error) => {
        clearTimeout(timer);
        end(error.code === "ERR_WORKER_OUT_OF_MEMORY" ? new Error("it takes too much memory to read") : error);
      });
      worker.once("message", ({ problem, document }) => {
        clearTimeout(timer);
        if (problem === undefined) resolve(document);
        else reject(new Error(problem));
      });
      worker.postMessage(path);
    });
  }

  /** What is being read breaks off. */
  async close() {
    this.#isClosed = true;
    await this.#worker?.terminate();
  }
}

if (!isMainThread && parentPort !== null) {
  parentPort.on("message", async (path) => {
    try {
      parentPort.postMessage({ document: await readDocument(path) });
    } catch (error) {
      parentPort.postMessage({ problem: error.message });
    }
  });
}
