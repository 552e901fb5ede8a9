// The application's own HTTP server: the page, the state of the documents, and answers as lines of JSON.
import { createReadStream } from "node:fs";
import { realpath } from "node:fs/promises";
import { join, sep } from "node:path";
import { pipeline } from "node:stream/promises";
import { createPageServer, HttpError, noRoute, readBody, sendJson, startLines } from "../page-server.mjs";
import { titleOf } from "./corpus.mjs";
import { kindOf } from "./documents.mjs";
import { termsOf } from "./search-index.mjs";

const maxBody = 256 * 1024;
const maxQuestion = 4_000;
const maxTurns = 6;
const numPassages = 4;

const sentences = new Intl.Segmenter("und", { granularity: "sentence" });

/**
 * An answer's sentences, each with the number of the passage that has most of its words, if it has half of them or more. Small
 * models cite badly; what a sentence leans on shows in its words.
 * @returns {{ text: string, passage?: number }[]} numbers from 1 on.
 */
export function cite(answer, passages) {
  const terms = passages.map((passage) => new Set(termsOf(`${titleOf(passage)} ${passage.text}`)));
  return [...sentences.segment(answer)].map(({ segment }) => {
    // Words of four letters or more, and numbers: short words are in every passage.
    const own = [...new Set(termsOf(segment))].filter((term) => term.length > 3 || /\p{N}/u.test(term));
    const shares = terms.map((known) => own.filter((term) => known.has(term)).length / own.length);
    const best = shares.indexOf(Math.max(...shares));
    return { text: segment, ...(own.length > 0 && shares[best] >= 0.5 && { passage: best + 1 }) };
  });
}

/** Where a passage stands: its file, at its page, or where the browser finds the heading. */
function hrefOf({ path, heading, page }) {
  const file = `/files/${path.split("/").map(encodeURIComponent).join("/")}`;
  const last = heading.split(" > ").at(-1);
  const fragment =
    page > 0 ? `page=${page}` : last === "" ? "" : `:~:text=${encodeURIComponent(last).replaceAll("-", "%2D")}`;
  return fragment === "" ? file : `${file}#${fragment}`;
}

/** An HTTP server over a corpus and a backend, which stay their caller's. It is made for this machine alone. */
export function createRagServer({ corpus, backend }) {
  const ask = async (body, response) => {
    const { question, turns } = readQuestion(body);
    const { send, signal } = startLines(response);
    const found = await corpus.retrieve(question, turns, numPassages);
    const passages = found.map((passage, i) => ({
      ...passage,
      title: titleOf(passage),
      number: i + 1,
      href: hrefOf(passage),
    }));
    send({ kind: "passages", passages });
    let answer = "";
    for await (const event of backend.answer(question, passages, turns, signal)) {
      if (event.kind === "text") answer += event.text;
      // Passages that the model had no room for are none of the answer's.
      send(event.kind === "done" ? { ...event, sentences: cite(answer, found.slice(0, event.numPassages)) } : event);
    }
    response.end();
  };

  const sendFile = async (path, response) => {
    // What the index has alone: no other file of the folder, and none beside it.
    if (!(await corpus.has(path))) throw new HttpError(404, "Cannot show the file: it is no document of the index");
    const real = await realpath(join(corpus.folder, ...path.split("/"))).catch(() => "");
    if (!real.startsWith(corpus.folder.endsWith(sep) ? corpus.folder : corpus.folder + sep))
      throw new HttpError(404, "Cannot show the file: it is no longer there");
    // Nothing in a document runs: a web page is shown as its source.
    const type = kindOf(path) === "pdf" ? "application/pdf" : "text/plain; charset=utf-8";
    response.writeHead(200, { "content-type": type, "x-content-type-options": "nosniff", "cache-control": "no-cache" });
    await pipeline(createReadStream(real), response);
  };

  const answer = async (request, response, pathname) => {
    if (request.method === "GET" && pathname === "/api/status") {
      sendJson(response, 200, await corpus.status());
    } else if (request.method === "GET" && pathname.startsWith("/files/")) {
      await sendFile(decodePath(pathname.slice("/files/".length)), response);
    } else if (request.method === "POST" && pathname === "/api/ask") {
      await ask(await readBody(request, maxBody), response);
    } else {
      throw noRoute(request, pathname);
    }
  };

  return createPageServer(import.meta.url, answer, { failedStatus: 502, pathOf });
}

function pathOf(request) {
  // A web page that was made to point here (DNS rebinding) has another host.
  const { hostname, pathname } = readUrl(request);
  if (!["localhost", "127.0.0.1", "[::1]"].includes(hostname))
    throw new HttpError(403, "Cannot answer: this server is for its own machine");
  return pathname;
}

function readUrl(request) {
  try {
    return new URL(request.url, `http://${request.headers.host}`);
  } catch {
    throw new HttpError(400, "Cannot answer: the request's host or path is no part of a URL");
  }
}

function decodePath(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new HttpError(400, "Cannot show the file: its path is not percent-encoded UTF-8");
  }
}

/** A question, and the last turns before it. */
function readQuestion({ question, turns = [] }) {
  const isText = (text) => typeof text === "string" && text.isWellFormed();
  if (!isText(question) || question.trim() === "" || question.length > maxQuestion)
    throw new HttpError(400, `Cannot ask: the question is a text of 1 to ${maxQuestion} characters`);
  if (!Array.isArray(turns) || !turns.every((turn) => isText(turn?.question) && isText(turn?.answer)))
    throw new HttpError(400, "Cannot ask: turns is a list of questions and answers");
  return {
    question: question.trim(),
    turns: turns.slice(-maxTurns).map(({ question, answer }) => ({ question, answer })),
  };
}
