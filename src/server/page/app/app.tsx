import { useCallback, useEffect, useMemo, useReducer, useRef, useState } from "preact/hooks";
import demoLines from "../../../../models/tiny-rag/demo.jsonl";
import { AnswerPanel } from "./answer-panel.js";
import { type Answer, type Api, ApiError, ask, forgetBlock, loadedModel, type ServedBlock } from "./api.js";
import { AskPanel } from "./ask-panel.js";
import { changeDraft, emptyDraft, formatDraft, type Mode, type Passage, parseDraft } from "./draft.js";
import { parseExamples, suggestedQuestions } from "./examples.js";
import { KeyForm } from "./key-form.js";
import { addMeasurement, type Measurements, passagesKey } from "./measurement.js";
import { MetricsPanel } from "./metrics-panel.js";
import { PassagesPanel } from "./passages-panel.js";
import type { Run } from "./run.js";
import { TimingPanel } from "./timing-panel.js";

const draftName = "block-attention.playground";
const keyName = "block-attention.key";
const numSuggestions = 5;
const retryMs = 2_000;

/** The model's name, once the server has told it. */
type Connection =
  | { readonly kind: "connecting" }
  | { readonly kind: "connected"; readonly model: string }
  | { readonly kind: "waiting"; readonly message: string };

/** The whole page. */
export function App() {
  const examples = useMemo(() => parseExamples(demoLines), []);
  const [draft, change] = useReducer(
    changeDraft,
    undefined,
    () => parseDraft(read(localStore(), draftName)) ?? emptyDraft,
  );
  const [key, setKey] = useState(() => read(sessionStore(), keyName) || undefined);
  const [keyMessage, setKeyMessage] = useState<string>();
  const [run, setRun] = useState<Run>({ kind: "none" });
  const [served, setServed] = useState<ReadonlyMap<number, { block: ServedBlock; text: string }>>(new Map());
  const [measurements, setMeasurements] = useState<Measurements>({});
  const [savedTokens, setSavedTokens] = useState(0);
  const [forgotten, setForgotten] = useState<{ kind: "done" | "failed"; text: string }>();
  const [announcement, announce] = useState("");
  const running = useRef<AbortController | undefined>(undefined);

  const api = useMemo<Api>(() => ({ fetch: (...request) => fetch(...request), key }), [key]);
  const askForKey = useCallback((message: string) => setKeyMessage(message), []);
  const connection = useConnection(api, askForKey);

  useEffect(() => write(localStore(), draftName, formatDraft(draft)), [draft]);
  // A page that is left must not keep the server at work.
  useEffect(() => () => running.current?.abort(), []);

  const used = draft.passages.filter(({ isOn, title, text }) => isOn && (title.trim() !== "" || text.trim() !== ""));
  const isRunning = run.kind === "running";

  /** Asks once and notes what was done. */
  const askOnce = async (
    passages: readonly Passage[],
    mode: Mode,
    maxTokens: number,
    signal: AbortSignal,
    onText: (text: string) => void,
  ): Promise<Answer> => {
    const documents = passages.map(({ title, text }) => ({ title, text }));
    const model = connection.kind === "connected" ? connection.model : "default";
    let answer: Answer | undefined;
    for await (const event of ask(api, { question: draft.question, documents, mode, model, maxTokens }, signal)) {
      if (event.kind === "text") onText(event.text);
      else answer = event.answer;
    }
    if (answer === undefined) throw new ApiError(undefined, "The answer was cut off: it has no end");
    const blocks = answer.mode === "full" ? [] : answer.blocks.slice(-passages.length || answer.blocks.length);
    const byPassage = passages.flatMap((passage, i) => {
      const block = blocks[i];
      return block === undefined ? [] : [{ passage, block }];
    });
    change({ kind: "served", blockIds: new Map(byPassage.map(({ passage, block }) => [passage.id, block.id])) });
    setServed(new Map(byPassage.map(({ passage, block }) => [passage.id, { block, text: textOf(passage) }])));
    setMeasurements((before) => addMeasurement(before, answer, documents));
    setSavedTokens((before) => before + answer.cachedTokens);
    return answer;
  };

  /** Runs one thing at a time, to an end that the person sees. */
  const start = async (
    what: "answer" | "measure",
    work: (signal: AbortSignal, onText: (text: string) => void) => Promise<Run>,
  ) => {
    const controller = new AbortController();
    running.current = controller;
    let text = "";
    setForgotten(undefined);
    setRun({ kind: "running", text, what });
    announce(what === "measure" ? "Measuring" : "Asked");
    try {
      const end = await work(controller.signal, (more) => {
        text += more;
        setRun({ kind: "running", text, what });
      });
      setRun(end);
      if (end.kind === "done") announce(what === "measure" ? "Measured" : `Answer: ${end.text}`);
    } catch (error) {
      if (controller.signal.aborted) {
        setRun({ kind: "stopped", text });
        announce("Stopped");
        return;
      }
      const { message } = error as Error;
      if (error instanceof ApiError && error.status === 401) askForKey(message);
      setRun({ kind: "failed", text, message });
    }
  };

  const onAsk = () =>
    start("answer", async (signal, onText) => {
      let text = "";
      const answer = await askOnce(used, draft.mode, draft.maxTokens, signal, (more) => {
        text += more;
        onText(more);
      });
      return { kind: "done", what: "answer", text, answer, passages: used };
    });

  /** Full mode, block mode with nothing in the store, block mode with everything in it: one token each. */
  const onMeasure = () =>
    start("measure", async (signal) => {
      const once = (mode: Mode) => askOnce(used, mode, 1, signal, () => undefined);
      // The first of all tells the blocks' ids, and pays for what a server does only once.
      const { blocks } = await once("block");
      await once("full");
      for (const id of new Set(blocks.slice(-used.length).map((block) => block.id))) await forgetBlock(api, id, signal);
      await once("block");
      const last = await once("block");
      return { kind: "done", what: "measure", text: "", answer: last, passages: used };
    });

  const known = used.filter(({ blockId }) => blockId !== undefined);
  const onForget = async () => {
    setForgotten(undefined);
    try {
      const ids = new Set(known.map(({ blockId }) => blockId as string));
      for (const id of ids) await forgetBlock(api, id, AbortSignal.timeout(10_000));
      setServed(new Map());
      const text = "The store has forgotten these passages: the next answer computes them again";
      setForgotten({ kind: "done", text });
      announce(text);
    } catch (error) {
      if (error instanceof ApiError && error.status === 401) askForKey(error.message);
      setForgotten({ kind: "failed", text: (error as Error).message });
    }
  };

  const onKey = (entered: string) => {
    write(sessionStore(), keyName, entered);
    setKeyMessage(undefined);
    setKey(entered);
  };
  const onForgetKey = () => {
    write(sessionStore(), keyName, "");
    setKey(undefined);
  };

  const titles = new Set(used.map(({ title }) => title));
  const current = new Map<number, ServedBlock>();
  for (const passage of draft.passages) {
    const found = served.get(passage.id);
    // What was told of another text says nothing of this one.
    if (found !== undefined && passage.isOn && found.text === textOf(passage)) current.set(passage.id, found.block);
  }
  return (
    <>
      <header class="top">
        <h1>
          Block-Attention <span class="muted">playground</span>
        </h1>
        <p class="status" data-connection={connection.kind}>
          {connection.kind === "connected" ? (
            <>
              Model <strong>{connection.model}</strong>
            </>
          ) : connection.kind === "waiting" ? (
            connection.message
          ) : (
            "Connecting …"
          )}
          {key !== undefined && (
            <button type="button" class="link-button" onClick={onForgetKey}>
              Forget the key
            </button>
          )}
        </p>
      </header>
      <main>
        {keyMessage !== undefined && <KeyForm message={keyMessage} onKey={onKey} />}
        <div class="columns">
          <PassagesPanel
            passages={draft.passages}
            nextId={draft.nextId}
            examples={examples}
            served={current}
            change={change}
            announce={announce}
          />
          <div class="column">
            <AskPanel
              draft={draft}
              suggestions={suggestedQuestions(examples, titles, numSuggestions)}
              isRunning={isRunning}
              change={change}
              onAsk={onAsk}
              onStop={() => running.current?.abort()}
            />
            <AnswerPanel run={run} />
            <TimingPanel
              measurements={measurements}
              passages={passagesKey(used)}
              numPassages={used.length}
              savedTokens={savedTokens}
              isRunning={isRunning}
              canForget={known.length > 0}
              forgotten={forgotten}
              onMeasure={onMeasure}
              onForget={onForget}
            />
          </div>
        </div>
        <MetricsPanel api={api} onKeyWanted={askForKey} />
      </main>
      <footer class="foot">
        The page asks only the server's own API: <code>/v1/chat/completions</code> with <code>documents</code> and{" "}
        <code>block_attention</code>. <code>/openapi.json</code> describes it.
      </footer>
      <p class="visually-hidden" role="status" data-announcement>
        {announcement}
      </p>
    </>
  );
}

/** Asks for the model until the server tells it. */
function useConnection(api: Api, onKeyWanted: (message: string) => void): Connection {
  const [connection, setConnection] = useState<Connection>({ kind: "connecting" });
  useEffect(() => {
    const ended = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const connect = async () => {
      try {
        setConnection({ kind: "connected", model: await loadedModel(api, ended.signal) });
      } catch (error) {
        if (ended.signal.aborted) return;
        const { message } = error as Error;
        if (error instanceof ApiError && error.status === 401) {
          setConnection({ kind: "waiting", message: "Waiting for a key" });
          onKeyWanted(message);
        } else {
          setConnection({ kind: "waiting", message });
          timer = setTimeout(connect, retryMs);
        }
      }
    };
    void connect();
    return () => {
      ended.abort();
      clearTimeout(timer);
    };
  }, [api, onKeyWanted]);
  return connection;
}

function textOf({ title, text }: Passage): string {
  return JSON.stringify([title, text]);
}

// A browser that keeps nothing for us may refuse the very property.
function localStore(): Storage | undefined {
  try {
    return localStorage;
  } catch {
    return undefined;
  }
}

function sessionStore(): Storage | undefined {
  try {
    return sessionStorage;
  } catch {
    return undefined;
  }
}

function read(store: Storage | undefined, name: string): string {
  return store?.getItem(name) ?? "";
}

function write(store: Storage | undefined, name: string, value: string): void {
  try {
    if (value === "") store?.removeItem(name);
    else store?.setItem(name, value);
  } catch {
    // Full: the page works on, a reload begins anew.
  }
}
