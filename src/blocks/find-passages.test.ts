import { existsSync, readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { runToEnd } from "../tokenizer/steps.js";
import { type FoundPiece, findPassages as findPassagesInSteps } from "./find-passages.js";
import { passageBlock } from "./passage.js";

function findPassages(text: string, maxCharacters?: number): FoundPiece[] {
  return runToEnd(findPassagesInSteps(text, maxCharacters));
}

interface Doc {
  readonly title: string;
  readonly text: string;
}

const docs: readonly Doc[] = [
  {
    title: "Marrowby Light",
    text: "Marrowby Light is a lighthouse on the Isle of Tarn, first lit in 1871. Its lens was made in Birmingham and carried over the moor by forty horses. Since 1988 it has been automatic; the keepers' cottages are rented to walkers.",
  },
  {
    title: "Ottoline Vance",
    text: "Ottoline Vance (1902 – 1979) was a cartographer. She drew the first complete map of the Tarn archipelago, at a scale of 1:25,000, and was its harbour master from 1941 to 1946.",
  },
  {
    title: "Tarn ferry",
    text: 'The Tarn ferry runs twice a day in summer and once a day from November to March. The crossing takes 95 minutes. In a storm of 1953 the ferry "Petrel" was lost with its cargo of slate; all hands were saved.',
  },
  {
    title: "Slate quarries of Tarn",
    text: "Slate was quarried on Tarn from 1790 until 1962. The largest pit, Deep Annie, is 140 metres deep and is now a lake. Its slate roofs the town hall of Marrowby and four railway stations on the mainland.",
  },
  {
    title: "Gannet",
    text: "The gannet colony on the northern cliffs has about 11,000 pairs. The birds arrive in February and leave in October. Landing on the cliffs is not allowed from April to August, so that the young are not disturbed.",
  },
];
const question = "Who drew the first complete map of Tarn?";

/** A prompt form: the prompt of these documents, in this order. */
type Form = (docs: readonly Doc[]) => string;

function passagesOf(pieces: readonly FoundPiece[]): string[] {
  return pieces.filter(({ kind }) => kind === "passage").map(({ text }) => text);
}

const join = (pieces: readonly FoundPiece[]): string => pieces.map(({ text }) => text).join("");

const realPassages = "../shared/data/2wiki_passages.jsonl";

/** Of the documents' characters, the share in passages that are the same in the reversed order. */
function sharedOf(form: Form, docs: readonly Doc[]): number {
  const reversed = new Set(passagesOf(findPassages(form(docs.toReversed()))));
  const shared = passagesOf(findPassages(form(docs))).filter((passage) => reversed.has(passage));
  const total = docs.reduce((sum, { text }) => sum + text.length, 0);
  const found = docs.filter(({ text }) =>
    shared.some(
      (passage) =>
        (passage.includes(text) || passage.includes(JSON.stringify(text))) && passage.length < 2 * text.length,
    ),
  );
  return found.reduce((sum, { text }) => sum + text.length, 0) / total;
}

const owui = `### Task:
Respond to the user query using the provided context, incorporating inline citations in the format [id] **only when the <source> tag includes an explicit id attribute** (e.g., <source id="1">).

### Guidelines:
- If you don't know the answer, clearly state that.
- If uncertain, ask the user for clarification.
- Respond in the same language as the user's query.
- **Only include inline citations using [id] (e.g., [1], [2]) when the <source> tag includes an id attribute.**

### Example of Citation:
If the user asks about a specific topic and the information is found in a source with a provided id attribute, the response should include the citation like in the following example:
* "According to the study, the proposed method increases efficiency by 20% [1]."

### Output:
Provide a clear and direct response to the user's query, including inline citations in the format [id] only when the <source> tag with id attribute is present in the context.

<context>
{{CONTEXT}}
</context>
`;

/** The prompts of eight frameworks as they write or document them. */
const frameworks: Readonly<Record<string, Form>> = {
  // langchain 1.x, create_stuff_documents_chain(): the documents joined with "\n\n"; the tutorials' system prompt.
  "LangChain: stuffed documents, no marks": (docs) =>
    `You are an assistant for question-answering tasks. Use the following pieces of retrieved context to answer the question. If you don't know the answer, say that you don't know. Use three sentences maximum and keep the answer concise.\n\n${docs.map(({ text }) => text).join("\n\n")}`,
  // The hub's rlm/rag-prompt.
  "LangChain: rag-prompt": (docs) =>
    `You are an assistant for question-answering tasks. Use the following pieces of retrieved context to answer the question. If you don't know the answer, just say that you don't know. Use three sentences maximum and keep the answer concise.\nQuestion: ${question} \nContext: ${docs.map(({ text }) => text).join("\n\n")} \nAnswer:`,
  // langchain's tutorial "Build a RAG agent": the retrieval tool's answer.
  "LangChain: retrieve tool": (docs) =>
    docs
      .map(({ title, text }) => `Source: https://tarn.example/${title.replaceAll(" ", "-")}\nContent: ${text}`)
      .join("\n"),
  // llama_index/core/prompts/default_prompts.py, DEFAULT_TEXT_QA_PROMPT; nodes as in schema.py: metadata, an empty line, text.
  "LlamaIndex: text_qa_template": (docs) =>
    `Context information is below.\n---------------------\n${docs
      .map(({ title, text }) => `page_label: 1\nfile_path: /data/${title}.pdf\n\n${text}`)
      .join(
        "\n\n",
      )}\n---------------------\nGiven the context information and not prior knowledge, answer the query.\nQuery: ${question}\nAnswer: `,
  "LlamaIndex: text_qa_template, no metadata": (docs) =>
    `Context information is below.\n---------------------\n${docs.map(({ text }) => text).join("\n\n")}\n---------------------\nGiven the context information and not prior knowledge, answer the query.\nQuery: ${question}\nAnswer: `,
  // llama_index/core/query_engine/citation_query_engine.py: its example counts its own sources.
  "LlamaIndex: citation template": (docs) =>
    `Please provide an answer based solely on the provided sources. When referencing information from a source, cite the appropriate source(s) using their corresponding numbers. Only cite a source when you are explicitly referencing it. For example:\nSource 1:\nThe sky is red in the evening and blue in the morning.\nSource 2:\nWater is wet when the sky is red.\nQuery: When is water wet?\nAnswer: Water will be wet when the sky is red [2], which occurs in the evening [1].\nNow it's your turn. Below are several numbered sources of information:\n------\n${docs
      .map(({ text }, i) => `Source ${i + 1}:\n${text}\n`)
      .join("\n\n")}\n------\nQuery: ${question}\nAnswer: `,
  // docs.haystack.deepset.ai "Get started" (2.x): a Jinja loop, which leaves its indentation and newlines.
  "Haystack: get started": (docs) =>
    `\nGiven these documents, answer the question.\nDocuments:\n${docs.map(({ text }) => `\n    ${text}\n`).join("")}\nQuestion: ${question}\nAnswer:\n`,
  // haystack tutorial 27, "Creating Your First QA Pipeline".
  "Haystack: first pipeline": (docs) =>
    `\nGiven the following information, answer the question.\n\nContext:\n${docs.map(({ text }) => `\n    ${text}\n`).join("")}\n\nQuestion: ${question}\nAnswer:\n`,
  // ai 6.0 docs, "Language Model Middleware", RAG: a JSON object a line after the user's text.
  "AI SDK: middleware": (docs) =>
    `${question}Use the following information to answer the question:\n${docs
      .map(({ title, text }) => JSON.stringify({ title, previewText: text, url: null }))
      .join("\n")}`,
  // vercel/ai content/cookbook/05-node/100-retrieval-augmented-generation.mdx.
  "AI SDK: node cookbook": (docs) =>
    `Answer the following question based only on the provided context:\n             ${docs.map(({ text }) => text).join("\n")}\n\n             Question: ${question}`,
  // vercel/ai content/cookbook/00-guides/01-rag-chatbot.mdx: what the tool getInformation gives.
  "AI SDK: RAG guide": (docs) => JSON.stringify(docs.map(({ text }) => ({ name: text, similarity: 0.5 }))),
  // open-webui backend/open_webui/config.py DEFAULT_RAG_TEMPLATE and utils/middleware.py, sources as tags.
  "Open WebUI": (docs) =>
    `${owui.replace("{{CONTEXT}}", docs.map(({ title, text }, i) => `<source id="${i + 1}" name="${title}.pdf">${text}</source>`).join("\n"))}\n${question}`,
  // anything-llm server/utils/AiProviders: #appendContext().
  AnythingLLM: (docs) =>
    `Given the following conversation, relevant context, and a follow up question, reply with an answer to the current question the user is asking. Return only your response to the question given the above information following the users instructions as needed.\nContext:\n${docs
      .map(({ text }, i) => `[CONTEXT ${i}]:\n${text}\n[END CONTEXT ${i}]\n\n`)
      .join("")}`,
  // dify api/core/prompt/prompt_templates/common_chat.json; dataset_retrieval.py joins segments with "\n".
  Dify: (docs) =>
    `Use the following context as your learned knowledge, inside <context></context> XML tags.\n\n<context>\n${docs.map(({ text }) => text).join("\n")}\n</context>\n\nWhen answer to user:\n- If you don't know, just say that you don't know.\n- If you don't know when you are not sure, ask for clarification.\nAvoid mentioning that you obtained the information from the context.\nAnd answer according to the language of the user's question.\n\n`,
  // ragflow rag/prompts/generator.py kb_prompt() and api/db/services/dialog_service.py; its default system prompt.
  RAGFlow: (docs) =>
    `You are an intelligent assistant. Please summarize the content of the knowledge base to answer the question. Please list the data in the knowledge base and answer in detail. When all knowledge base content is irrelevant to the question, your answer must include the sentence "The answer you are looking for is not found in the knowledge base!" Answers need to consider chat history.\n      Here is the knowledge base:\n      \n------\n${docs
      .map(({ title, text }, i) => `\nID: ${i}\n├── Title: ${title}.pdf\n└── Content:\n${text}`)
      .join("\n\n------\n\n")}\n      The above is the knowledge base.`,
};

const ask = `\n\nQuestion: ${question}\nAnswer:`;
const lines = (docs: readonly Doc[], line: (doc: Doc, i: number) => string, separator = "\n"): string =>
  docs.map(line).join(separator);

const others: Readonly<Record<string, Form>> = {
  "numbered list": (docs) => `Context:\n${lines(docs, ({ text }, i) => `${i + 1}. ${text}`)}${ask}`,
  references: (docs) => `${lines(docs, ({ text }, i) => `[${i + 1}] ${text}`, "\n\n")}\n\n${question}`,
  "model's form": (docs) =>
    `${lines(docs, ({ title, text }) => `- Title: ${title}\n${text}\n`, "")}Please write a high-quality answer for the given question using only the provided search documents (some of which might be irrelevant).\nQuestion: ${question}\n`,
  // nelson-liu/lost-in-the-middle, prompts/qa.prompt.
  "lost in the middle": (docs) =>
    `Write a high-quality answer for the given question using only the provided search results (some of which might be irrelevant).\n\n${lines(docs, ({ title, text }, i) => `Document [${i + 1}](Title: ${title}) ${text}`)}${ask}`,
  "Passage 3:": (docs) => `${lines(docs, ({ text }, i) => `Passage ${i + 1}:\n${text}`, "\n\n")}${ask}`,
  "Document 3:": (docs) => `Answer.\n\n${lines(docs, ({ text }, i) => `Document ${i + 1}: ${text}`)}${ask}`,
  "=== Document 3 ===": (docs) =>
    `Answer.\n\n${lines(docs, ({ text }, i) => `=== Document ${i + 1} ===\n${text}`)}${ask}`,
  "**Source 3**": (docs) => `Answer.\n\n${lines(docs, ({ text }, i) => `**Source ${i + 1}**\n${text}`, "\n\n")}${ask}`,
  "### Source 3": (docs) =>
    `Answer.\n\n${lines(docs, ({ text }, i) => `### Source ${i + 1}\n${text}`, "\n\n")}\n\n### Question\n${question}`,
  "Title and text": (docs) => `${lines(docs, ({ title, text }) => `Title: ${title}\nText: ${text}`, "\n\n")}${ask}`,
  "JSON objects in a prompt": (docs) =>
    `Answer from these:\n${JSON.stringify(
      docs.map(({ text }, i) => ({ id: i, text })),
      null,
      2,
    )}\n\n${question}`,
  "JSON texts in a prompt": (docs) =>
    `Answer from these: ${JSON.stringify(docs.map(({ text }) => text))}\n\n${question}`,
  "JSON in an object": (docs) => JSON.stringify({ query: question, results: docs }),
  headings: (docs) => `Documents:\n\n${lines(docs, ({ title, text }) => `## ${title}\n\n${text}`, "\n\n")}${ask}`,
  // docs.anthropic.com, "Long context prompting tips".
  "Anthropic's documents": (docs) =>
    `<documents>\n${lines(docs, ({ title, text }, i) => `  <document index="${i + 1}">\n    <source>${title}.pdf</source>\n    <document_content>\n      ${text}\n    </document_content>\n  </document>`)}\n</documents>\n\n${question}`,
  "tags without numbers": (docs) => `${lines(docs, ({ text }) => `<doc>\n${text}\n</doc>`)}\n\n${question}`,
  "tags in one line": (docs) =>
    `<context>${lines(docs, ({ text }) => `<doc>${text}</doc>`, "")}</context>\n${question}`,
  "short separators": (docs) => `Use the following context:\n\n${lines(docs, ({ text }) => text, "\n\n---\n\n")}${ask}`,
  "long separators": (docs) => `${lines(docs, ({ text }) => `==========\n${text}\n`, "")}==========\n${question}`,
  bullets: (docs) => `Runbook documents:\n${lines(docs, ({ text }) => `- ${text}`)}\nQuestion: ${question}`,
  "German paragraphs": (docs) => `Kontext:\n\n${lines(docs, ({ text }) => text, "\n\n")}\n\nFrage: ${question}`,
  "Chinese labels": (docs) =>
    `已知信息：\n${lines(docs, ({ text }, i) => `资料 ${i + 1}：${text}`)}\n\n问题：${question}`,
};

const forms = Object.entries({ ...frameworks, ...others });

describe("findPassages(): reversed, at least 90% of the passages' characters are in the same passages", () => {
  for (const [name, form] of forms) {
    test(name, () => {
      const pieces = findPassages(form(docs));
      expect(join(pieces)).toBe(form(docs));
      expect(passagesOf(pieces)).toHaveLength(docs.length + (name.includes("citation") ? 2 : 0));
      expect(sharedOf(form, docs)).toBeGreaterThanOrEqual(0.9);
    });
  }
});

const realDocs: readonly Doc[] = existsSync(realPassages)
  ? readFileSync(realPassages, "utf8")
      .trim()
      .split("\n")
      .filter((_, i) => i % 10 === 0)
      .map((line) => JSON.parse(line))
  : [];

// `npx vitest run src/blocks/find-passages.test.ts -t "real passages" --reporter verbose` prints the shares.
describe.skipIf(realDocs.length === 0)(
  `findPassages(): the same of real passages (skipped without ${realPassages})`,
  () => {
    for (const [name, form] of forms) {
      test(name, async ({ annotate }) => {
        const shares = Array.from({ length: 100 }, (_, i) => sharedOf(form, realDocs.slice(5 * i, 5 * i + 5)));
        const mean = shares.reduce((sum, share) => sum + share, 0) / shares.length;
        await annotate(`${(100 * mean).toFixed(1)}%`);
        expect(mean).toBeGreaterThanOrEqual(0.9);
      });
    }
  },
);

test("findPassages(): a passage alone is what it is among others", () => {
  /** One alone is no list where neither its form nor a line before it says so. */
  const unannounced = /tool|guide|^references|Title and|^JSON|Chinese/;
  for (const [name, form] of forms) {
    const [first, ...more] = passagesOf(findPassages(form(docs.slice(0, 1)))).slice(name.includes("citation") ? 2 : 0);
    expect(more, name).toEqual([]);
    if (unannounced.test(name)) expect(first, name).toBeUndefined();
    else expect(passagesOf(findPassages(form(docs))), name).toContain(first);
  }
});

const words = fc.array(fc.string({ unit: fc.constantFrom(..."abcdelnortu"), minLength: 2, maxLength: 9 }), {
  minLength: 4,
  maxLength: 14,
});
const sentence = words.map((list) => `The ${list.join(" ")}.`);
const paragraph = fc.array(sentence, { minLength: 20, maxLength: 30 }).map((list) => list.join(" "));
const paragraphs = fc.array(paragraph, { minLength: 1, maxLength: 3 }).map((list) => list.join("\n\n"));
const docsOf = (text: fc.Arbitrary<string>) =>
  fc.uniqueArray(fc.record({ title: words.map((list) => list.slice(0, 3).join(" ")), text }), {
    minLength: 2,
    maxLength: 6,
    selector: (doc) => doc.text,
  });
/** Forms without marks: each paragraph is a passage. */
const unmarked = /no marks|rag-prompt|no metadata|Haystack|cookbook|Dify|German|bullets|joined/;
/** Each form with documents that it can hold, and another order of them. */
const prompts = fc.constantFrom(...forms).chain(([name, form]) =>
  docsOf(unmarked.test(name) ? paragraph : paragraphs).chain((docs) =>
    fc.record({
      form: fc.constant(form),
      docs: fc.constant(docs),
      order: fc.shuffledSubarray(docs, { minLength: docs.length }),
    }),
  ),
);

/** So that passages are cut. */
const short = 1000;

test("findPassages(): in another order the passages are the same", () => {
  fc.assert(
    fc.property(prompts, ({ form, docs, order }) => {
      const passages = passagesOf(findPassages(form(docs), short));
      expect(passages.length).toBeGreaterThanOrEqual(docs.length);
      expect(passagesOf(findPassages(form(order), short)).sort()).toEqual(passages.sort());
    }),
    { numRuns: 500 },
  );
});

test("findPassages(): other letters in one passage change its pieces alone", () => {
  fc.assert(
    fc.property(prompts, fc.nat(), fc.nat(), words, ({ form, docs }, which, at, [word]) => {
      const i = which % docs.length;
      const { text } = docs[i]!;
      const letters = [...text.matchAll(/[a-z]/g)].map(({ index }) => index);
      const letter = letters[at % letters.length]!;
      const edited = docs.with(i, { ...docs[i]!, text: text.slice(0, letter) + word + text.slice(letter) });
      const [before, after] = [findPassages(form(docs), short), findPassages(form(edited), short)];
      const isSame = (a: FoundPiece | undefined, b: FoundPiece | undefined) =>
        a?.text === b?.text && a?.kind === b?.kind;
      while (isSame(before[0], after[0])) [before.shift(), after.shift()];
      while (isSame(before.at(-1), after.at(-1))) [before.pop(), after.pop()];
      expect(new Set([...before, ...after].map(({ kind }) => kind))).toEqual(new Set(["passage"]));
    }),
    { numRuns: 300 },
  );
});

test("findPassages(): instructions before a prompt, and other questions, leave the passages as they are", () => {
  const before = fc.array(
    fc.oneof(
      sentence,
      fc.constant("# Role"),
      sentence.map((text) => `- ${text}`),
    ),
    { maxLength: 4 },
  );
  const after = fc.array(sentence, { maxLength: 3 }).map((list) => list.join(" "));
  fc.assert(
    fc.property(prompts, before, after, ({ form, docs }, instructions, more) => {
      const prompt = form(docs);
      const passages = passagesOf(findPassages(prompt));
      const prefix = instructions.map((text) => `${text}\n`).join("");
      // The question of "AI SDK: middleware" has no line of its own.
      expect(passagesOf(findPassages(`${prefix}\n${prompt}`))).toEqual(passages);
      if (prompt.includes(question)) {
        expect(passagesOf(findPassages(prompt.replaceAll(question, `Why is ${more}?`)))).toEqual(passages);
      }
    }),
    { numRuns: 300 },
  );
});

const soup = fc
  .array(
    fc.constantFrom(
      ...'a.?"{}[]<>:|#-* \n',
      ...[
        "\n\n",
        "\r\n",
        "😀",
        "[1] ",
        "\n[2] ",
        "\n3. ",
        "\nDocument 4:",
        "<doc>",
        "</doc>",
        '<source id="1">',
        "</source>",
      ],
      ...[
        "\n<context>",
        "</context>",
        "\n---\n",
        "\n------\n",
        "```",
        "\n```\n",
        "\n| a | b |",
        "\n## b\n",
        "- Title: c\n",
      ],
      ...[
        "[END CONTEXT 1]\n",
        "Context:\n",
        "Question:",
        '{"id": 1, "a": "',
        '["',
        '", "',
        '"]',
        "the following documents",
      ],
      " ".repeat(250),
      "😀".repeat(120),
      "some words that are long enough to be a passage of their own. ".repeat(2),
    ),
    { maxLength: 80 },
  )
  .map((pieces) => pieces.join(""));

test("findPassages(): whatever the text, the pieces are the text, whole characters, none empty, no two of text side by side", () => {
  fc.assert(
    fc.property(soup, (text) => {
      const pieces = findPassages(text, 200);
      expect(join(pieces)).toBe(text);
      expect(pieces.every((piece) => piece.text !== "" && piece.text.isWellFormed())).toBe(true);
      expect(pieces.filter(({ kind }, i) => kind === "text" && pieces[i + 1]?.kind === "text")).toEqual([]);
    }),
    // A closing label in an element is a part of it.
    { numRuns: 2000, examples: [["<doc>[END CONTEXT 1]\n</doc>"]] },
  );
});

/** What texts of one thing again and again are made of. */
const units = [
  "[1] ",
  "[1]\n",
  "<",
  "<\n",
  "\n",
  "\n\n",
  "```",
  "```\n",
  '["",',
  '[{"a":',
  "---\n",
  "a\n------\n",
  "# a\n",
  "a\n",
  "| a\n",
  "Context:\n",
  "</b> x",
  "Use only this\n",
  "- Title: the title of something\nand its text, as long as it must be\n",
  '<source id="1">\n',
  "<context>\n",
];

test("findPassages(): a megabyte of anything gives at most 8,192 pieces that are the text", () => {
  for (const unit of units) {
    const text = unit.repeat(Math.ceil(1e6 / unit.length));
    const pieces = findPassages(text);
    expect(join(pieces) === text).toBe(true);
    expect(pieces.length).toBeLessThanOrEqual(8192);
  }
});

test("findPassages(): between two steps expressions look at a bounded part of the text, whatever it is", () => {
  const exec = RegExp.prototype.exec;
  let looked = 0;
  // The string methods call it, too. One that is anchored fails where it begins.
  RegExp.prototype.exec = function (text) {
    const { lastIndex, source } = this;
    const found = exec.call(this, text);
    const end = found === null ? (source.startsWith("^") ? 0 : text.length) : found.index + found[0].length;
    looked += Math.max(0, end - lastIndex);
    return found;
  };
  try {
    const passage = "x".repeat(5e5);
    for (const text of [
      ...units.map((unit) => unit.repeat(1e6 / unit.length)),
      passage,
      `["${passage}`,
      `[1] ${passage}\n[2] ${passage}`,
    ]) {
      const steps = findPassagesInSteps(text);
      do looked = 0;
      while (steps.next().done !== true && looked < 6 * 65_536);
      expect(looked, text.slice(0, 40)).toBeLessThan(6 * 65_536);
    }
  } finally {
    RegExp.prototype.exec = exec;
  }
});

test("findPassages(): prose is one text", () => {
  const poem =
    "The light goes round,\nthe sea goes by,\n\nthe keeper's cat\nlooks at the sky.\n\nNobody rows\non such a night.\n";
  const instructions = `# Role\nYou help the harbour office of Tarn.\n\n# Rules\n1. ${docs[0]!.text}\n2. ${docs[1]!.text}\n3. ${docs[2]!.text}\n\n## Tone\n\n- ${docs[3]!.text}\n- Be brief.\n`;
  const answer = `## Summary\n\n${docs[0]!.text}\n\n---\n\n## Details\n\n**Step 1:** ${docs[1]!.text}\n\n**Step 2:** ${docs[2]!.text}\n\n---\n\n${docs[3]!.text}\n`;
  const code =
    "import { a } from './a';\n\n/** Adds. */\nexport function add(x: number, y: number) {\n  return [x, y].map((z) => a[z]);\n}\n";
  const letter = docs.map(({ text }) => text).join("\n\n");
  for (const text of [poem, instructions, answer, code, letter, "Hello!", "\n"]) {
    expect(findPassages(text)).toEqual([{ text, kind: "text" }]);
  }
  expect(findPassages("")).toEqual([]);
});

test("findPassages(): in the model's own form a passage is the block of the same document", () => {
  const blocks = docs.map((doc) => passageBlock({ ...doc, isBlock: false }, "- Title: {title}\n{text}\n"));
  const pieces = findPassages(`${blocks.join("")}Please answer.\nQuestion: ${question}\n`);
  expect(pieces.slice(0, -1).map(({ text }) => text)).toEqual(blocks);
});

test("findPassages(): paragraphs that are announced in a section end with it", () => {
  const [a, b, c] = docs.map(({ text }) => text) as [string, string, string];
  const pieces = findPassages(`# Role\n\nHelp.\n\n## Documents\n\n${a}\n\n### More\n\n${b}\n\n## Rules\n\n${c}\n`);
  expect(passagesOf(pieces)).toEqual([a, `### More\n\n${b}`]);
  expect(passagesOf(findPassages(`# Role\n\nContext: ${a}\n\n## Rules\n\n${b}\n`))).toEqual([a]);
});

test("findPassages(): an example", () => {
  const [ann, bo] = ["Ann keeps the lighthouse of Tarn.", "Bo has sailed on the ferry since 1990."];
  expect(findPassages(`Context:\n[1] ${ann}\n[2] ${bo}\n\nWho?`)).toEqual([
    { text: "Context:\n", kind: "text" },
    { text: "[1] ", kind: "label" },
    { text: ann, kind: "passage" },
    { text: "\n[2] ", kind: "label" },
    { text: bo, kind: "passage" },
    { text: "\n\nWho?", kind: "text" },
  ]);
});

test("findPassages(): what is found in one list is not looked for in its passages", () => {
  const inner = `${docs[0]!.text}\n\nStep 1: go.\nStep 2: stay.\n\n[1] A note.\n[2] Another note.\n<doc>x</doc>\n- Title: y`;
  const pieces = findPassages(`Document 1:\n${inner}\n\nDocument 2:\n${docs[1]!.text}${ask}`);
  expect(passagesOf(pieces)).toEqual([inner, docs[1]!.text]);
});

test("findPassages(): what follows a list of single paragraphs is no part of the last", () => {
  const list = lines(docs, ({ text }, i) => `[${i + 1}] ${text}`, "\n\n");
  const pieces = findPassages(`${list}\n\nTell me about the ferry.`);
  expect(passagesOf(pieces)).toEqual(docs.map(({ text }) => text));
  expect(pieces.at(-1)).toEqual({ text: "\n\nTell me about the ferry.", kind: "text" });
});

test("findPassages(): a closing label goes with the label after it, and begins nothing", () => {
  const [a, b] = docs.map(({ text }) => text) as [string, string];
  const pieces = findPassages(
    `[END DOCUMENT 0]\n\n[DOCUMENT 1]\n${a}\n[END DOCUMENT 1]\n\n[DOCUMENT 2]\n${b}\n[END DOCUMENT 2]\nGo on.`,
  );
  const labels = ["[DOCUMENT 1]\n", "\n[END DOCUMENT 1]\n\n[DOCUMENT 2]\n", "\n[END DOCUMENT 2]"];
  expect(pieces.map(({ text }) => text)).toEqual([
    "[END DOCUMENT 0]\n\n",
    labels[0],
    a,
    labels[1],
    b,
    labels[2],
    "\nGo on.",
  ]);
});

test("findPassages(): two lists, and one document alone", () => {
  const [a, b, c] = docs.map(({ text }) => text) as [string, string, string];
  const two = findPassages(
    `<documents>\n<doc>${a}</doc>\n<doc>${b}</doc>\n</documents>\nTools:\n${JSON.stringify([b, c])}\nGo.`,
  );
  expect(passagesOf(two)).toEqual([`<doc>${a}</doc>`, `<doc>${b}</doc>`, JSON.stringify(b), JSON.stringify(c)]);
  expect(passagesOf(findPassages(`<document>${a}</document>\n${question}`))).toEqual([`<document>${a}</document>`]);
  expect(passagesOf(findPassages(`Context: ${a}${ask}`))).toEqual([a]);
});

test("findPassages(): code fences and tables stay whole, and what is in them marks nothing", () => {
  const table = `| a | b |\n${"| 1 | a row that is longer than a hundred characters, as rows of tables are, and then somewhat longer than that |\n".repeat(30)}`;
  const code = `\`\`\`\n[1] not a label\n\n------\n<doc>\n${"let x = 1;\n".repeat(100)}\`\`\``;
  const pieces = findPassages(`[1] A table:\n\n${table}\n[2] Code:\n\n${code}\n\n[3] ${docs[0]!.text}${ask}`, 500);
  for (const kept of [table.trim(), code]) expect(pieces.filter(({ text }) => text.includes(kept))).toHaveLength(1);
  expect(pieces.filter(({ kind }) => kind === "label").map(({ text }) => text.trim())).toEqual(["[1]", "[2]", "[3]"]);
});

test("findPassages(): a long passage is cut after sentences, in parts that are neither too long nor short", () => {
  fc.assert(
    fc.property(
      fc.array(sentence, { minLength: 1, maxLength: 80 }),
      fc.integer({ min: 600, max: 2000 }),
      (list, maxCharacters) => {
        const text = list.join(" ");
        const parts = passagesOf(findPassages(`<document>${text}</document>`, maxCharacters));
        for (const part of parts) expect(part.length).toBeLessThanOrEqual(maxCharacters);
        if (parts.length > 1)
          for (const part of parts) expect(part.length).toBeGreaterThanOrEqual(maxCharacters / 3 - 1);
        for (const part of parts.slice(0, -1)) expect(part).toMatch(/\. $/);
      },
    ),
  );
  expect(
    passagesOf(findPassages(`<document>${"😀".repeat(500)}</document>`, 201)).every((part) => part.isWellFormed()),
  ).toBe(true);
});
