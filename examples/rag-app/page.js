// The page: it sends questions with the turns before them, and shows answers, the passages that they stand on, and the documents.
// All text of documents and answers is set as text, never as markup.
const at = (id) => document.getElementById(id);
let turns = [];
/** The turns that the page has shown, of all conversations: ids of passages are made of it. */
let numShown = 0;
let running;

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function link(text, href) {
  const made = element("a", text);
  made.href = href;
  return made;
}

/** Not every browser's streams can be looped over. */
async function* linesOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const lines = (rest + part.value).split("\n");
    rest = lines.pop();
    yield* lines;
  }
}

async function ask(question) {
  const number = ++numShown;
  const shown = element("article");
  const answer = element("p", "", "answer");
  const passages = element("ol", "", "passages");
  passages.setAttribute("aria-label", "Passages");
  const measured = element("p", "", "muted");
  shown.setAttribute("aria-label", `Question ${number}`);
  shown.setAttribute("aria-busy", "true");
  shown.append(element("h3", question), answer, measured, passages);
  at("turns").append(shown);
  at("status").textContent = "Looking for passages";
  running = new AbortController();
  let text = "";
  try {
    const response = await fetch("/api/ask", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ question, turns }),
      signal: running.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error);
    let isDone = false;
    for await (const line of linesOf(response.body)) {
      const event = JSON.parse(line);
      if (event.kind === "passages") {
        showPassages(passages, event.passages, number);
        at("status").textContent = `Answering over ${event.passages.length} passages`;
      } else if (event.kind === "text") {
        text += event.text;
        answer.textContent = text;
      } else if (event.kind === "done") {
        isDone = true;
        showAnswer(answer, event.sentences, number);
        showMeasured(measured, passages, event);
      } else throw new Error(event.message);
    }
    if (!isDone) throw new Error("Cannot go on: the answer broke off");
    turns.push({ question, answer: text });
    at("status").textContent = `Answer to question ${number} is there`;
  } catch (error) {
    const isStopped = running.signal.aborted;
    measured.textContent = isStopped ? "Stopped." : "Failed.";
    at("status").textContent = isStopped ? "Stopped" : "";
    if (!isStopped) at("problem").textContent = `${error.message}.`;
    if (text !== "") turns.push({ question, answer: text });
  } finally {
    running = undefined;
    shown.removeAttribute("aria-busy");
  }
}

function showPassages(list, passages, number) {
  list.replaceChildren(
    ...passages.map(({ title, path, text, href }, i) => {
      const item = element("li");
      item.id = `passage-${number}-${i + 1}`;
      item.tabIndex = -1;
      const source = link(title, href);
      source.target = "_blank";
      source.rel = "noopener";
      const whole = element("details");
      whole.append(element("summary", "Text"), element("pre", text));
      item.append(source, " ", element("span", path, "muted"), " ", element("span", "", "served"), whole);
      return item;
    }),
  );
}

/** The sentences, each with a link to the passage that it leans on. */
function showAnswer(answer, sentences, number) {
  answer.replaceChildren(
    ...sentences.flatMap(({ text, passage }) => {
      if (passage === undefined) return [text];
      const cited = link(`[${passage}]`, `#passage-${number}-${passage}`);
      cited.className = "cited";
      cited.setAttribute("aria-label", `Passage ${passage}`);
      return [text.trimEnd(), " ", cited, /\s*$/.exec(text)[0] || " "];
    }),
  );
}

function showMeasured(measured, list, { cachedTokens, promptTokens, firstTokenMs, mode, hits, numPassages }) {
  measured.textContent = `First token after ${Math.round(firstTokenMs)} ms. ${cachedTokens} of ${promptTokens} tokens from the store (${mode} mode).`;
  for (const [i, item] of [...list.children].entries()) {
    const hit = hits[i];
    const served = item.querySelector(".served");
    served.textContent =
      i >= numPassages
        ? "left out, the prompt was too long"
        : hit === undefined
          ? ""
          : hit
            ? "from the store"
            : "computed";
    served.dataset.served = hit ? "stored" : "computed";
  }
}

async function send() {
  const question = at("question").value.trim();
  if (question === "" || running) return;
  at("problem").textContent = "";
  at("question").value = "";
  at("send").disabled = true;
  at("stop").disabled = false;
  try {
    await ask(question);
  } finally {
    at("send").disabled = false;
    at("stop").disabled = true;
    at("question").focus();
  }
}

const phases = {
  starting: "Starting",
  reading: "Reading documents",
  encoding: "Encoding passages ahead; questions can be asked meanwhile",
  ready: "All documents are read and encoded",
  failed: "Will try again",
};
let drawn = "";

async function showStatus() {
  try {
    const response = await fetch("/api/status");
    const text = await response.text();
    if (text !== drawn && response.ok) showDocuments(JSON.parse(text));
    drawn = text;
  } catch {
    at("phase").textContent = "The application does not answer.";
    drawn = "";
  }
  setTimeout(showStatus, 2_000);
}

function showDocuments({ folder, model, search, phase, detail, documents, skipped }) {
  at("about").textContent = `${folder}, answered by ${model}, searched ${search}`;
  at("phase").textContent = detail === "" ? `${phases[phase]}.` : `${phases[phase]}: ${detail}.`;
  const items = [...documents, ...skipped].map(({ path, numPassages = 0, isEncoded, problem }) => {
    const item = element("li");
    item.append(numPassages > 0 ? link(path, `/files/${path.split("/").map(encodeURIComponent).join("/")}`) : path);
    const state = problem ?? `${numPassages} passages, ${isEncoded ? "encoded" : "not yet encoded"}`;
    item.append(" ", element("span", state, problem === undefined ? "muted" : "problem"));
    return item;
  });
  at("documents").replaceChildren(...(items.length > 0 ? items : [element("li", "There are no documents.")]));
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  void send();
});
at("question").addEventListener("keydown", (event) => {
  // While an input method composes, Enter takes its proposal.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  void send();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
at("stop").addEventListener("click", () => running?.abort());
at("new").addEventListener("click", () => {
  running?.abort();
  turns = [];
  at("turns").replaceChildren();
  at("status").textContent = "A new conversation";
  at("question").focus();
});
void showStatus();
at("question").focus();
