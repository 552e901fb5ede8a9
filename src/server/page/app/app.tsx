import { useCallback, useEffect, useMemo, useReducer, useRef, useState } from "preact/hooks";
import demoLines from "../../../../models/smollm2-rag/demo.jsonl";
import embeddedLines from "../../../../models/tiny-rag/demo.jsonl";
import { AnswerPanel } from "./answer-panel.js";
import {
  type Answer,
  type Api,
  ApiError,
  ask,
  forgetBlock,
  loadedModel,
  type Question,
  type ServedBlock,
  type ServedModel,
} from "./api.js";
import { AskPanel } from "./ask-panel.js";
import { changeDraft, type Draft, emptyDraft, formatDraft, type Mode, type Passage, parseDraft } from "./draft.js";
import { fillUp, parseExamples, suggestedQuestions } from "./examples.js";
import { KeyForm } from "./key-form.js";
import { type Measurement, type Measurements, measurementOf, medians, passagesKey } from "./measurement.js";
import { MetricsPanel } from "./metrics-panel.js";
import { PassagesPanel } from "./passages-panel.js";
import type { Measuring, Run } from "./run.js";
import { numMeasuredPassages, numMeasuredRounds, TimingPanel } from "./timing-panel.js";

const draftName = "block-attention.playground";
const keyName = "block-attention.key";
const numSuggestions = 5;
const retryMs = 2_000;

/** The model, once the server has told it. */
type Connection =
  | { readonly kind: "connecting"; readonly model?: undefined }
  | { readonly kind: "connected"; readonly model: ServedModel }
  /** `model` is the one before the server went away. */
  | { readonly kind: "waiting"; readonly message: string; readonly model: ServedModel | undefined };

/** The whole page. */
export function App() {
  const [draft, change] = useReducer(
    changeDraft,
    undefined,
    () => parseDraft(read(localStore(), draftName)) ?? emptyDraft,
  );
  /** Of this visit: another time another model may be served. */
  const [chosenMode, setChosenMode] = useState<Mode>();
  const [key, setKey] = useState(() => read(sessionStore(), keyName) || undefined);
  const [keyError, setKeyError] = useState<ApiError>();
  const [run, setRun] = useState<Run>({ kind: "none" });
  const [served, setServed] = useState<ReadonlyMap<number, { block: ServedBlock; text: string }>>(new Map());
  const [asked, setAsked] = useState<Measurements>({});
  const [measuring, setMeasuring] = useState<Measuring>({ kind: "none" });
  const [measured, setMeasured] = useState<{ runs: readonly Measurement[]; numPassages: number }>();
  const [savedTokens, setSavedTokens] = useState(0);
  const [forgotten, setForgotten] = useState<{ kind: "done" | "failed"; text: string }>();
  const [announcement, announce] = useState("");
  const running = useRef<AbortController | undefined>(undefined);

  const api = useMemo<Api>(() => ({ fetch: (...request) => fetch(...request), key }), [key]);
  const [connection, reconnect] = useConnection(api, setKeyError);
  const { model } = connection;
  // The embedded model reads only its own, and has no room for longer ones.
  const examples = useMemo(() => parseExamples(model?.id === "tiny-rag" ? embeddedLines : demoLines), [model?.id]);
  /** Whether nothing was kept: then the first of the examples is loaded, once it is known which model is served, or that a key is wanted. */
  const isFirstVisit = useRef(isEmpty(draft));
  const mode = chosenMode ?? model?.defaultMode;
  /** Asks for the key, or for the server until it is there again. */
  const onFailure = useCallback(
    (error: unknown) => {
      if (!(error instanceof ApiError)) return;
      if (error.status === 401) setKeyError(error);
      else if (error.status === undefined || error.status >= 500) reconnect();
    },
    [reconnect],
  );
  useEffect(() => {
    const [example] = examples;
    if (connection.kind === "connecting" || example === undefined || !isFirstVisit.current) return;
    isFirstVisit.current = false;
    if (isEmpty(draft)) change({ kind: "load", ...example, question: example.questions[0] ?? "" });
  }, [connection.kind, draft, examples]);
  useEffect(() => write(localStore(), draftName, formatDraft(draft)), [draft]);
  // A page that is left must not keep the server at work.
  useEffect(() => () => running.current?.abort(), []);

  const used = draft.passages.filter(({ isOn, title, text }) => isOn && (title.trim() !== "" || text.trim() !== ""));
  const isRunning = run.kind === "running" || measuring.kind === "running";

  /** Asks once, to the answer's end. */
  const askOnce = async (
    question: Omit<Question, "model">,
    signal: AbortSignal,
    onText?: (text: string) => void,
  ): Promise<Answer> => {
    let answer: Answer | undefined;
    for await (const event of ask(api, { ...question, model: model?.id ?? "default" }, signal)) {
      if (event.kind === "text") onText?.(event.text);
      else answer = event.answer;
    }
    if (answer === undefined) throw new ApiError(undefined, "The answer was cut off: it has no end");
    setSavedTokens((before) => before + (answer?.cachedTokens ?? 0));
    return answer;
  };

  /** One thing runs at a time. */
  const begin = (): AbortSignal => {
    running.current = new AbortController();
    setForgotten(undefined);
    return running.current.signal;
  };

  const onAsk = async () => {
    const signal = begin();
    let text = "";
    setRun({ kind: "running", text });
    announce("Asked");
    try {
      const { question, maxTokens } = draft;
      const answer = await askOnce({ question, documents: textsOf(used), mode, maxTokens }, signal, (more) => {
        text += more;
        setRun({ kind: "running", text });
      });
      const blocks = used.length === 0 ? [] : answer.blocks.slice(-used.length);
      const byPassage = used.flatMap((passage, i) => {
        const block = blocks[i];
        return block === undefined ? [] : [{ passage, block }];
      });
      change({ kind: "served", blockIds: new Map(byPassage.map(({ passage, block }) => [passage.id, block.id])) });
      setServed(new Map(byPassage.map(({ passage, block }) => [passage.id, { block, text: textOf(passage) }])));
      const measurement = measurementOf(answer, textsOf(used));
      if (measurement !== undefined) setAsked((before) => ({ ...before, [measurement.kind]: measurement }));
      setRun({ kind: "done", text, answer, passages: used });
      announce([`Answer: ${text}`, ...answer.warnings.map((warning) => `Warning: ${warning}`)].join(" "));
    } catch (error) {
      if (signal.aborted) {
        setRun({ kind: "stopped", text });
        announce("Stopped");
        return;
      }
      setRun({ kind: "failed", text, message: describe(error) });
      onFailure(error);
    }
  };

  /** In turn: full mode, block mode with nothing in the store, block mode with everything in it; one token each. */
  const onMeasure = async () => {
    const signal = begin();
    // Turned round, so that an earlier question over the same passages is no prefix of it.
    const documents = fillUp(textsOf(used), examples, numMeasuredPassages).toReversed();
    const question = draft.question.trim() || (examples[0]?.questions[0] ?? "");
    let numDone = 0;
    const once = async (wanted: Mode) => {
      setMeasuring({ kind: "running", numDone });
      const answer = await askOnce({ question, documents, mode: wanted, maxTokens: 1, isMeasured: true }, signal);
      numDone += 1;
      return answer;
    };
    const runs: Measurement[] = [];
    const measure = async (wanted: Mode) => {
      const measurement = measurementOf(await once(wanted), documents);
      if (measurement !== undefined) runs.push(measurement);
      setMeasured({ runs: [...runs], numPassages: documents.length });
    };
    announce("Measuring");
    try {
      // The first of all tells the blocks' ids, and pays for what a server does only once.
      const { blocks } = await once("block");
      for (let round = 0; round < numMeasuredRounds; round++) {
        await measure("full");
        for (const id of new Set(blocks.map((block) => block.id))) await forgetBlock(api, id, signal);
        await measure("block");
        await measure("block");
      }
      setMeasuring({ kind: "none" });
      announce("Measured");
    } catch (error) {
      if (signal.aborted) {
        setMeasuring({ kind: "none" });
        announce("Stopped");
        return;
      }
      setMeasuring({ kind: "failed", message: describe(error) });
      onFailure(error);
    }
  };

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
      setForgotten({ kind: "failed", text: describe(error) });
      onFailure(error);
    }
  };

  const onKey = (entered: string) => {
    write(sessionStore(), keyName, entered);
    setKeyError(undefined);
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
            <span>
              Model <strong>{connection.model.id}</strong>
            </span>
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
          <a href="/docs">API</a>
        </p>
        <p class="muted intro">
          Each passage is a block: encoded once, kept in the server's store, and used at any place of any later prompt.
          Ask, change the order, and ask again.
        </p>
      </header>
      <main>
        {keyError !== undefined && <KeyForm error={keyError} onKey={onKey} />}
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
              mode={mode}
              model={model}
              suggestions={suggestedQuestions(examples, titles, numSuggestions)}
              isRunning={isRunning}
              change={change}
              onMode={setChosenMode}
              onAsk={onAsk}
              onStop={() => running.current?.abort()}
            />
            <AnswerPanel run={run} />
            <TimingPanel
              asked={asked}
              passages={passagesKey(used)}
              measured={measured && { ...measured, medians: medians(measured.runs) }}
              measuring={measuring}
              savedTokens={savedTokens}
              isRunning={isRunning}
              canForget={known.length > 0}
              forgotten={forgotten}
              onMeasure={onMeasure}
              onStop={() => running.current?.abort()}
              onForget={onForget}
            />
          </div>
        </div>
        <MetricsPanel api={api} onFailure={onFailure} />
      </main>
      <footer class="foot">
        The page asks only the server's own API: <code>/v1/chat/completions</code> with <code>documents</code> and{" "}
        <code>block_attention</code>. <a href="/docs">The API's page</a> describes it, and so does{" "}
        <a href="/openapi.json">/openapi.json</a>.
      </footer>
      <p class="visually-hidden" role="status" data-announcement>
        {announcement}
      </p>
    </>
  );
}

/** Asks for the model until the server tells it. The function asks again, for a server that may have gone away. */
function useConnection(api: Api, onKeyWanted: (error: ApiError) => void): [Connection, () => void] {
  const [connection, setConnection] = useState<Connection>({ kind: "connecting" });
  const [attempt, setAttempt] = useState(0);
  useEffect(() => {
    const ended = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const connect = async () => {
      try {
        setConnection({ kind: "connected", model: await loadedModel(api, ended.signal) });
      } catch (error) {
        if (ended.signal.aborted) return;
        const isKeyWanted = error instanceof ApiError && error.status === 401;
        const message = isKeyWanted ? "Waiting for a key" : (error as Error).message;
        setConnection(({ model }) => ({ kind: "waiting", message, model }));
        if (isKeyWanted) onKeyWanted(error);
        else timer = setTimeout(connect, retryMs);
      }
    };
    void connect();
    return () => {
      ended.abort();
      clearTimeout(timer);
    };
  }, [api, onKeyWanted, attempt]);
  return [connection, useCallback(() => setAttempt((before) => before + 1), [])];
}

/** What went wrong, and what to do where the server's words do not say it. */
function describe(error: unknown): string {
  const { message } = error as Error;
  if (!(error instanceof ApiError)) return message;
  if (error.status === 401) return `${message}. Enter a key at the top of the page.`;
  const isPassing = error.status === undefined || error.status >= 500 || error.status === 429;
  return isPassing ? `${message}${/[.?]$/.test(message) ? "" : "."} Try again in a moment.` : message;
}

function isEmpty({ passages, question }: Draft): boolean {
  return passages.length === 0 && question === "";
}

function textsOf(passages: readonly Passage[]): { title: string; text: string }[] {
  return passages.map(({ title, text }) => ({ title, text }));
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
