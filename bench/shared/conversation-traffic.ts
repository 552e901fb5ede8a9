import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Random } from "../../tests/models/random.js";
import { letters, zipf } from "./rag-traffic.js";

/** What a user sends, the answers left out. */
export interface Conversation {
  readonly system: string;
  /** Of each turn the user message's text parts: passages or a tool's result, and last the question. */
  readonly turns: readonly (readonly string[])[];
}

/** Passages and questions, without end: real ones begin anew, random ones do not. */
export interface Texts {
  readonly origin: string;
  passage(index: number): string;
  question(index: number): string;
  /** A text of about so many tokens. */
  result(index: number, numTokens: number): string;
}

const followUps = [
  "Which of the passages says so?",
  "Say it again, in a few words.",
  "When did that happen?",
  "Who else is named there?",
  "What would you look up next?",
];
const agentSteps = 8;
const resultTokens = 200;
const passagesPerQuestion = 5;
/** Of the chat's questions: overlapping for several users, different ones within a conversation. */
const chatPool = { numPassages: 100, zipfExponent: 1 };
const assistant = "You are a helpful assistant. Answer from the passages, briefly.";

/** Each of about 120 tokens in SmolLM2's tokenizer with what describeTool() says of it. */
const tools = {
  search_web: "Searches the web and gives titles, addresses and the first lines of the best pages",
  read_page: "Reads the page at an address and gives its text without menus and advertisements",
  search_mail: "Searches the user's mail by sender, subject, words of the text and time of arrival",
  list_files: "Lists the files of a folder with their sizes, owners and times of the last change",
  read_file: "Reads a file of the user's folder, or the lines of it that a range names, as text",
  run_query: "Runs a query that only reads on the sales database and gives the rows as a table",
  find_events: "Finds events of the user's calendar that overlap a time, with place and guests",
  get_weather: "Gives the weather of a place for the hours of a day: temperature, rain and wind",
};

export const makeConversations = {
  /** Six turns: five passages that nobody else has and a question, then follow-ups. */
  turns: (texts: Texts, numConversations: number): Conversation[] =>
    indices(numConversations).map((i) => ({
      system: assistant,
      turns: [
        [...indices(passagesPerQuestion).map((k) => texts.passage(passagesPerQuestion * i + k)), texts.question(i)],
        ...followUps.map((text) => [text]),
      ],
    })),

  /** Agents with the same tools and a task each: eight steps, each after the first with its tool's result. */
  agent: (texts: Texts, numConversations: number): Conversation[] =>
    indices(numConversations).map((i) => ({
      system: `You work in steps and call one tool in each. The tools:\n${Object.entries(tools).map(describeTool).join("")}`,
      turns: indices(agentSteps).map((step) =>
        step === 0
          ? [texts.question(i)]
          : [`Result:\n${texts.result(agentSteps * i + step, resultTokens)}\n`, "Go on with the next step."],
      ),
    })),

  /** Users who ask a question with five passages, follow it up, ask another with five others, and follow that up. */
  chat: (texts: Texts, numConversations: number): Conversation[] => {
    const drawRanks = zipf(new Random(1, "chat"), chatPool.numPassages, chatPool.zipfExponent);
    return indices(numConversations).map((i) => {
      const passages = drawRanks(2 * passagesPerQuestion).map((rank) => texts.passage(rank));
      return {
        system: assistant,
        turns: [0, 1].flatMap((k) => [
          [...passages.slice(k * passagesPerQuestion, (k + 1) * passagesPerQuestion), texts.question(2 * i + k)],
          [followUps[k] as string],
        ]),
      };
    });
  },
} satisfies Record<string, (texts: Texts, numConversations: number) => Conversation[]>;

/** HotpotQA's passages and questions where ../shared has them, else words of random letters. */
export function readTexts(): Texts {
  const folder = join("..", "shared", "data", "qa");
  if (!existsSync(folder)) {
    const random = (kind: string, index: number, length: number) => letters(new Random(index, kind), length);
    return {
      origin: "words of random letters",
      passage: (index) => `- Title: ${random("title", index, 10)}\n${random("passage", index, 100)}\n`,
      question: (index) => random("question", index, 30),
      result: (index, numTokens) => random("result", index, numTokens),
    };
  }
  const rowsOf = (name: string) =>
    readFileSync(join(folder, name), "utf8")
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line) as { title: string; text: string; question: string });
  const questions = rowsOf("hotpotqa_test.jsonl").map(({ question }) => question);
  // About 60 to 180 tokens each.
  const passages = rowsOf("passages_hotpot.jsonl").filter(({ text }) => text.length >= 300 && text.length <= 800);
  const charactersPerToken = 3.75;
  return {
    origin: "HotpotQA's passages and questions",
    passage: (index) => {
      const { title, text } = passages[index % passages.length] as { title: string; text: string };
      return `- Title: ${title}\n${text}\n`;
    },
    question: (index) => questions[index % questions.length] as string,
    result: (index, numTokens) => {
      const from = (4 * index) % (passages.length - 4);
      const texts = passages.slice(from, from + 4).map(({ text }) => text);
      return texts.join(" ").slice(0, Math.round(charactersPerToken * numTokens));
    },
  };
}

function describeTool([name, about]: readonly [string, string]): string {
  const field = (type: string, description: string) => ({ type, description });
  const properties = {
    query: field("string", "What to look for, in the user's own words"),
    limit: field("integer", "The most entries of the result, 1 to 50"),
    since: field("string", "Passes over what is older than this date"),
  };
  const parameters = { type: "object", properties, required: ["query"] };
  return `${JSON.stringify({ name, description: about, parameters })}\n`;
}

function indices(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}
