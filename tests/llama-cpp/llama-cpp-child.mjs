// Runs llama.cpp (through node-llama-cpp) in a process of its own: one JSON request on standard input, one JSON answer
// as the last line of standard output, {"answer":…} or {"error":…}. llama-cpp-oracle.ts says what the requests are.
import { text } from "node:stream/consumers";

const requests = { info, tokenize, greedy, scores, timings };

try {
  const request = JSON.parse(await text(process.stdin));
  const run = requests[request.kind];
  if (run === undefined) throw new Error(`Cannot ask llama.cpp: request "${request.kind}" is unknown`);
  const { getLlama } = await import("node-llama-cpp");
  const llama = await getLlama({
    build: "never",
    gpu: request.gpu ?? false,
    skipDownload: true,
    logLevel: "disabled",
    maxThreads: request.threads ?? 2,
  });
  const answer = await run(llama, request);
  process.stdout.write(`\n${JSON.stringify({ answer })}\n`, () => process.exit(0));
} catch (error) {
  const message = String(error?.message ?? error).split("\n")[0];
  // Not there at all: no package, or none for this platform. Whatever else fails is a failure.
  const isMissing = error?.code === "ERR_MODULE_NOT_FOUND" || error?.constructor?.name === "NoBinaryFoundError";
  process.stdout.write(`\n${JSON.stringify({ error: message, isMissing })}\n`, () => process.exit(1));
}

async function info(llama) {
  return { release: llama.llamaCppRelease.release, threads: llama.cpuMathCores, system: llama.systemInfo };
}

/** Each text's ids, nothing added; control tokens where `special` says so. */
async function tokenize(llama, { model, texts, special }) {
  const loaded = await llama.loadModel({ modelPath: model, gpuLayers: 0, vocabOnly: true });
  return texts.map((text) => loaded.tokenize(text, special));
}

/** Each prompt continued by the likeliest token, again and again. */
async function greedy(llama, { model, prompts, numSteps, ...options }) {
  const loaded = await llama.loadModel({ modelPath: model, gpuLayers: 0 });
  const longest = Math.max(...prompts.map((ids) => ids.length)) + numSteps;
  const context = await loaded.createContext(contextOptions(longest, options));
  const sequence = context.getSequence();
  const answers = [];
  for (const prompt of prompts) {
    let pending = await unseen(sequence, prompt);
    const steps = [];
    for (let step = 0; step < numSteps; step++) {
      const [best] = await evaluate(sequence, pending, 1);
      steps.push(summarize(best));
      pending = [steps.at(-1).token];
    }
    answers.push(steps);
  }
  return answers;
}

/** The log-probability of each continuation token, given the prompt and what stands before it; of each prompt. */
async function scores(llama, { model, prompts, continuation, ...options }) {
  const loaded = await llama.loadModel({ modelPath: model, gpuLayers: 0 });
  const longest = Math.max(...prompts.map((ids) => ids.length)) + continuation.length;
  const context = await loaded.createContext(contextOptions(longest, options));
  const sequence = context.getSequence();
  const answers = [];
  for (const prompt of prompts) {
    const ids = await unseen(sequence, [...prompt, ...continuation.slice(0, -1)], continuation.length);
    const steps = await evaluate(sequence, ids, continuation.length);
    answers.push(continuation.map((token, step) => ({ logprob: steps[step].get(token), ...summarize(steps[step]) })));
  }
  return answers;
}

/** Milliseconds, each the median of `repeats` runs. */
async function timings(llama, request) {
  const { model, prefillTokens, decodeTokens, finalTokens, repeats = 3, gpu = false, ...options } = request;
  const gpuLayers = gpu ? "max" : 0;
  const loaded = await llama.loadModel({ modelPath: model, gpuLayers, ignoreMemorySafetyChecks: true });
  const size = prefillTokens + Math.max(decodeTokens, finalTokens);
  const context = await loaded.createContext(contextOptions(size, options));
  const sequence = context.getSequence();
  // Any ids do; not all the same, so that no row is read from a warm cache alone.
  const ids = Array.from({ length: size }, (_, i) => 1 + ((i * 7919) % Math.min(255, loaded.tokens.length ?? 255)));
  const keepPrefix = () => sequence.eraseContextTokenRanges([{ start: prefillTokens, end: sequence.nextTokenIndex }]);
  const predictLast = (piece) =>
    sequence.controlledEvaluate(
      piece.map((id, i) => (i === piece.length - 1 ? [id, { generateNext: { token: true } }] : id)),
    );
  const prefill = [];
  const final = [];
  const decode = [];
  for (let run = 0; run < repeats; run++) {
    await sequence.clearHistory();
    prefill.push(await time(() => predictLast(ids.slice(0, prefillTokens))));
    if (finalTokens > 0) {
      final.push(await time(() => predictLast(ids.slice(prefillTokens, prefillTokens + finalTokens))));
      await keepPrefix();
    }
    if (decodeTokens > 0) {
      decode.push(
        await time(async () => {
          for (let i = 0; i < decodeTokens; i++) await predictLast([ids[prefillTokens + i]]);
        }),
      );
      await keepPrefix();
    }
  }
  return {
    prefillMs: median(prefill),
    finalMs: median(final),
    decodeMs: median(decode),
    threads: context.currentThreads || options.threads,
    batchSize: context.batchSize,
    flashAttention: context.flashAttention,
  };
}

function contextOptions(
  numTokens,
  { threads = 2, batchSize = 512, flashAttention = false, kvType = "F32", adapters = [] },
) {
  // llama.cpp rounds contexts up to 256 cells; one token of room, since it refuses a context filled to the brim.
  return {
    contextSize: Math.ceil((numTokens + 1) / 256) * 256,
    batchSize,
    threads: { ideal: threads, min: threads },
    flashAttention,
    // Else what a prompt begins with could not be kept where layers have windows.
    swaFullCache: true,
    experimentalKvCacheKeyType: kvType,
    experimentalKvCacheValueType: kvType,
    lora: { adapters: adapters.map(({ path, scale }) => ({ filePath: path, scale })) },
  };
}

/** Keeps of a sequence what ids begin with, and returns the others: `numWanted` at least. */
async function unseen(sequence, ids, numWanted = 1) {
  const kept = sequence.contextTokens;
  const differs = ids.slice(0, -numWanted).findIndex((id, i) => id !== kept[i]);
  const shared = differs < 0 ? ids.length - numWanted : differs;
  await sequence.eraseContextTokenRanges([{ start: shared, end: sequence.nextTokenIndex }]);
  return ids.slice(sequence.nextTokenIndex);
}

/** Feeds ids and returns the log-probabilities after each of the last `numWanted`, as maps sorted best first. */
async function evaluate(sequence, ids, numWanted) {
  const firstWanted = ids.length - numWanted;
  const input = ids.map((id, i) => (i < firstWanted ? id : [id, { generateNext: { logits: true } }]));
  const results = await sequence.controlledEvaluate(input);
  return results.slice(firstWanted).map(({ next }) => {
    const logits = [...next.logits];
    const highest = logits[0][1];
    const total = logits.reduce((sum, [, logit]) => sum + Math.exp(logit - highest), 0);
    return new Map(logits.map(([token, logit]) => [token, logit - highest - Math.log(total)]));
  });
}

function summarize(logprobs) {
  const top = [...logprobs.entries()].slice(0, 5);
  return { token: top[0][0], margin: top[0][1] - top[1][1], top };
}

async function time(run) {
  const start = performance.now();
  await run();
  return performance.now() - start;
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length === 0 ? undefined : sorted[Math.floor(sorted.length / 2)];
}
