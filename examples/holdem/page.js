// The page of a table: it shows what the server's lines say, and sends the human's actions.
const at = (id) => document.getElementById(id);
let table;
let isBusy = false;
/** Lines of the history that were written to the log, of this hand. */
let hand = { number: 0, lines: 0 };

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

async function post(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  if (!response.ok) throw new Error((await response.json()).error);
  return response;
}

/** Does what a button asks for, one at a time, and says what went wrong. */
async function busy(work) {
  if (isBusy) return;
  isBusy = true;
  at("problem").textContent = "";
  for (const button of document.querySelectorAll("button")) button.disabled = true;
  try {
    await work();
  } catch (error) {
    at("problem").textContent = `${error.message}.`;
    offer([["Go on", {}]]);
  } finally {
    isBusy = false;
    for (const button of document.querySelectorAll("button")) button.disabled = false;
    // Who plays by keyboard goes on where the next decision is.
    if (document.activeElement === document.body) at("actions").querySelector("button")?.focus();
  }
}

async function play(body) {
  const response = await post(`/api/tables/${table}/play`, body);
  let rest = "";
  for await (const part of partsOf(response.body.pipeThrough(new TextDecoderStream()))) {
    const lines = (rest + part).split("\n");
    rest = lines.pop();
    for (const line of lines) show(JSON.parse(line));
  }
}

/** Not every browser's streams can be looped over. */
async function* partsOf(stream) {
  const reader = stream.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
}

function show(event) {
  switch (event.kind) {
    case "frame":
    case "turn":
      showTable(event.view);
      if (event.kind === "turn") showTurn(event.view);
      return;
    case "asked":
      showBlocks(event);
      return;
    case "said":
      log(`${event.who}: ${event.text}`, "muted");
      return;
    case "failed":
      throw new Error(event.message);
  }
}

function log(text, className) {
  // The newest first, where it is seen.
  at("log").prepend(element("p", text, className));
  while (at("log").childElementCount > 60) at("log").lastElementChild.remove();
}

function showTable({ state, cards, you, model }) {
  if (state.table.hand !== hand.number) {
    hand = { number: state.table.hand, lines: 0 };
    log(`Hand ${hand.number}`);
  }
  for (const line of state.history.slice(hand.lines)) log(line);
  hand.lines = state.history.length;
  at("summary").textContent =
    `Hand ${state.table.hand}, ${state.round}, pot ${state.pot}. ${state.button} has the button.`;
  at("board").textContent = `Board: ${state.board.join(" ") || "no cards yet"}`;
  at("hand").textContent = `Your cards: ${cards.join(" ")}`;
  at("seats").replaceChildren(
    ...state.players.map(({ name, status, chips, cards: shown }) => {
      const who = name === you ? `${name} (you)` : name === model ? `${name} (the model)` : name;
      const item = element(
        "li",
        `${who}: ${chips.remain} chips, bet ${chips.bet}, ${status}${shown ? `, ${shown.join(" ")}` : ""}`,
      );
      if (name === state.toAct) item.setAttribute("aria-current", "true");
      return item;
    }),
  );
}

function showTurn({ legal, state }) {
  const isOver = state.round === "over";
  at("you-title").textContent = isOver ? "The hand is over" : "Your turn";
  offer(isOver ? [["Next hand", { next: true }]] : legal.map((action) => [action, { action }]));
}

/** Buttons, each with what it sends; the number keys press them too. */
function offer(choices) {
  at("actions").replaceChildren(
    ...choices.map(([text, body], i) => {
      const button = element("button", text);
      button.type = "button";
      button.setAttribute("aria-keyshortcuts", String(i + 1));
      button.title = `Key ${i + 1}`;
      button.addEventListener("click", () => busy(() => play(body)));
      return button;
    }),
  );
}

function showBlocks({ who, frame, blocks, computed, cachedTokens, promptTokens, firstTokenMs }) {
  at("measured").textContent =
    `Frame ${frame}, asked by ${who}: ${computed.blocks} of the blocks computed (${computed.tokens} tokens), ` +
    `${cachedTokens} of ${promptTokens} tokens from the store, first token after ${Math.round(firstTokenMs)} ms.`;
  at("bar").replaceChildren(
    ...blocks.map(({ hit, tokens }) => {
      const part = element("span", "", hit ? "stored" : "computed");
      part.style.flexGrow = String(tokens);
      return part;
    }),
  );
  at("blocks").replaceChildren(
    ...blocks.map(({ hit, tokens, text }) => {
      const item = element("li");
      item.dataset.served = hit ? "stored" : "computed";
      item.append(
        element("span", `${hit ? "from the store" : "computed"}, ${tokens} tokens`, hit ? "stored" : "computed"),
        " ",
        element("code", text),
      );
      return item;
    }),
  );
}

async function lay(players) {
  const { id, view } = await (await post("/api/tables", { players })).json();
  table = id;
  hand = { number: 0, lines: 0 };
  at("log").replaceChildren();
  showTable(view);
  await play({});
}

for (let n = 2; n <= 9; n++) at("players").append(new Option(String(n), String(n), n === 6, n === 6));
at("lay").addEventListener("submit", (event) => {
  event.preventDefault();
  void busy(() => lay(Number(at("players").value)));
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("select, input")) return;
  const button = at("actions").querySelector(`[aria-keyshortcuts="${CSS.escape(event.key)}"]`);
  button?.click();
});
void busy(() => lay(Number(at("players").value)));
