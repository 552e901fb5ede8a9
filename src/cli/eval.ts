import { evalCompareOptions, runEvalCompare } from "./eval-compare.js";
import { evalRagOptions, runEvalRag } from "./eval-rag.js";
import { evalScoreOptions, runEvalScore } from "./eval-score.js";
import { evalSweepOptions, runEvalSweep } from "./eval-sweep.js";
import { evalTableOptions, runEvalTable } from "./eval-table.js";
import { evalTtftOptions, runEvalTtft } from "./eval-ttft.js";
import type { Subcommand } from "./subcommand.js";

/** What answers sets of questions, scores answers, and measures. */
export const evaluationCommands: readonly Subcommand[] = [
  {
    name: "rag",
    summary: "Answers questions over passages, keeps every answer, and scores them.",
    declare: evalRagOptions,
    run: runEvalRag,
    help: `
Examples:
  block-attention data synth --split test --contexts 400 --passages 10 --output test.jsonl
  block-attention eval rag --input test.jsonl --mode full --last-sentence --output runs/full
  block-attention eval rag --input test.jsonl --mode block --last-sentence --output runs/block --compare runs/full
  block-attention eval rag --model ./Tulu3-Block-FT --modes block,full,no-reencoding --output runs/paper \\
    --input 2wiki=2wiki.jsonl --input hqa=hqa.jsonl --input nq=nq.jsonl --input tqa=tqa.jsonl
  block-attention eval rag --input nq.jsonl --peer vllm=http://127.0.0.1:8000/v1 --peer-model llama --output runs/peers

A line is {"question", "answers", "documents", "id"?, "kind"?}. The same command goes on where it was interrupted. With
--modes, --peer or several sets, each run has a folder in the output's, and one report stands over all. A peer's prompt is sent
to its server; its key comes from the environment alone.`,
  },
  {
    name: "score",
    summary: "Scores finished files, without a model.",
    declare: evalScoreOptions,
    run: runEvalScore,
    help: `
Examples:
  block-attention eval score --input answers.jsonl
  block-attention eval score --input runs/ --last-sentence --json
  block-attention eval score --input block.jsonl --compare full.jsonl

A line is {"generated", "answers", "question"?, "id"?, "kind"?}. A line that cannot be used is told on standard error, the
others go on, and the exit code is 1.`,
  },
  {
    name: "compare",
    summary: "Compares two runs over the same questions.",
    declare: evalCompareOptions,
    run: runEvalCompare,
    help: `
Examples:
  block-attention eval compare runs/block runs/full --last-sentence
  block-attention eval compare runs/block runs/full --output runs/block-less-full --json

Tells the paired difference with its 95% bootstrap interval, McNemar's exact test, and the questions that one run alone has
right. Runs over different questions are refused.`,
  },
  {
    name: "sweep",
    summary: "Tells how answers go with the number of passages and their order.",
    declare: evalSweepOptions,
    run: runEvalSweep,
    help: `
Examples:
  block-attention eval sweep --input hqa.jsonl --passages 2,5,10,20 --modes block,full --output runs/sweep
  block-attention eval sweep --input nq.jsonl --passages 1,2,5,10,20,50,100,200 --order gold-first,gold-middle,gold-last --output runs/sweep

Gold passages are those that a line's "supports" or "supporting_facts" name, else those that hold a gold answer. A line is
filled up with its other passages, then with other lines', none of which holds a gold answer.`,
  },
  {
    name: "ttft",
    summary: "Makes the paper's table of times to the first token.",
    declare: evalTtftOptions,
    run: runEvalTtft,
    help: `
Examples:
  block-attention eval ttft --lengths 50,512,1024 --output runs/ttft
  block-attention eval ttft --model ./Tulu3-Block-FT --input passages.jsonl --lengths 50,512,1024,2048,4096,8192 --output runs/ttft`,
  },
  {
    name: "table",
    summary: "Makes the paper's accuracy table over the held-out test.",
    declare: evalTableOptions,
    run: runEvalTable,
    help: `
Examples:
  block-attention eval table --rows rows.json --questions 40 --output runs/accuracy

"paper" names the paper's row that a row stands beside: full, full_in_block, block, block_in_full, no_reencoding, sft.
"against" names another row that it is compared with, beside the first. A row whose model is not there says so.`,
  },
];
