import { execFileSync, spawn } from "node:child_process";
import {
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { Command } from "commander";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createProgram } from "../../src/cli/program.js";
import { type FakeChatServer, fakeChatServer } from "../../src/data/answer/fake-chat-server.suite.js";
import { Engine } from "../../src/engine/engine.js";
import { buildDist, projectRoot } from "../build-dist.js";
import { writeRandomModel } from "../models/random-model.js";
import { runCli } from "../run-cli.js";
import { lawFolder } from "./law-models.js";

/** How much a run of the laws does. */
export interface OutputsSize {
  /** Commands that are killed, and kept from writing: of each, the first so many. */
  readonly numDisturbed: number;
  /** How often each is killed, at another moment each time. */
  readonly numKills: number;
}

/** A command that writes files. */
interface Writing {
  readonly name: string;
  /** What it reads: a text, or a model's weights. */
  readonly input: "rag" | "answered" | "raw" | "conversations" | "passages" | "model" | "rows" | "squad" | "musique";
  /** Of an output that is a folder, a file that it writes there. */
  readonly inside?: string;
  readonly args: (input: string, output: string) => readonly string[];
}

const pipeMaker = "mkfifo";
const passages = Array.from({ length: 10 }, (_, i) => ({
  title: `Person ${i}`,
  text: `Person ${i} lives in town ${i}. ${"It is far. ".repeat(8)}`,
}));
const ragRows = Array.from({ length: 120 }, (_, i) => ({
  id: `q${i}`,
  question: `Where does person ${i % 10} live?`,
  answers: [`town ${i % 10}`],
  generated: `In town ${i % 10}.`,
  documents: passages.slice(i % 5, (i % 5) + 5),
}));
const lines = (values: readonly object[]): string => values.map((value) => `${JSON.stringify(value)}\n`).join("");
const texts: Readonly<Record<Exclude<Writing["input"], "model">, string>> = {
  rag: lines(ragRows.map(({ generated: _, ...row }) => row)),
  answered: lines(ragRows),
  raw: lines(
    ragRows.map(({ question, answers, documents }) => ({
      question,
      answers,
      ctxs: documents.map((document) => ({ ...document, score: 1 })),
    })),
  ),
  conversations: lines(
    // Rows without an id are named by their file.
    ragRows.map(({ id, question, generated }) => ({
      id,
      messages: [
        { role: "user", content: question.repeat(20) },
        { role: "assistant", content: generated },
      ],
    })),
  ),
  passages: lines(passages),
  squad: lines(
    ragRows.map(({ id, question, answers, documents }) => ({
      ...documents[0],
      questions: [{ id, question, answers }],
    })),
  ),
  musique: lines(
    ragRows.map(({ id, question, answers, documents }) => ({
      id,
      question,
      answer: answers[0],
      paragraphs: documents.map(({ title, text }) => ({ title, paragraph_text: text })),
    })),
  ),
  rows: "",
};

/** The laws of every command that writes files: none destroys what it was given, or what was there. */
export function outputsSuite(size: OutputsSize): void {
  const folder = lawFolder();
  let server: FakeChatServer;
  let numFolders = 0;
  const freshFolder = (): string => {
    const made = join(folder, String(numFolders++));
    mkdirSync(made);
    return made;
  };

  /** Every command that writes files; train, train-tokenizer and export have tests of their own below. */
  const commands: readonly Writing[] = [
    {
      name: "data pack",
      input: "conversations",
      args: (input, output) => ["--input", input, "--output", output, "--workers", "0"],
    },
    {
      name: "convert",
      input: "model",
      args: (input, output) => ["--model", dirname(input), "--to", "gguf", "--output", output],
    },
    {
      name: "eval rag",
      input: "rag",
      inside: "report.md",
      args: (input, output) => [
        "--input",
        input,
        "--output",
        output,
        "--limit",
        "2",
        "--max-tokens",
        "2",
        "--no-ask-again",
      ],
    },
    { name: "data retrieve", input: "rag", args: (input, output) => ["--input", input, "--output", output] },
    {
      name: "data tulu3",
      input: "conversations",
      inside: "sft.train.jsonl",
      args: (input, output) => ["--input", input, "--output-dir", output, "--workers", "0"],
    },
    {
      name: "data answer",
      input: "rag",
      args: (input, output) => [
        "--input",
        input,
        "--output",
        output,
        "--base-url",
        server.baseUrl.href,
        "--model",
        "m",
      ],
    },
    { name: "data convert", input: "answered", args: (input, output) => ["--input", input, "--output", output] },
    {
      name: "data mix",
      input: "rag",
      args: (input, output) => ["--input", input, "--input", input, "--output", output],
    },
    { name: "data merge", input: "rag", args: (input, output) => [input, "--output", output] },
    {
      name: "data sample",
      input: "rag",
      args: (input, output) => ["--input", input, "--count", "100", "--output", output],
    },
    ...["nq", "tqa"].map(
      (name): Writing => ({
        name: `data ${name}`,
        input: "raw",
        args: (input, output) => ["--input", input, "--output", output],
      }),
    ),
    ...["2wiki", "hqa"].map(
      (name): Writing => ({
        name: `data ${name}`,
        input: "rows",
        args: (input, output) => ["--input", input, "--output", output],
      }),
    ),
    { name: "data squad", input: "squad", args: (input, output) => ["--input", input, "--output", output] },
    {
      name: "data needles",
      input: "passages",
      args: (input, output) => ["--input", input, "--output", output, "--count", "2"],
    },
    {
      name: "data musique",
      input: "musique",
      args: (input, output) => ["--input", input, "--output", output],
    },
    {
      name: "eval score",
      input: "answered",
      inside: "report.md",
      args: (input, output) => ["--input", input, "--output", output],
    },
    {
      name: "eval compare",
      input: "answered",
      inside: "compare.md",
      args: (input, output) => [input, input, "--output", output],
    },
    {
      name: "eval sweep",
      input: "rag",
      inside: "sweep.md",
      args: (input, output) => [
        "--input",
        input,
        "--output",
        output,
        "--limit",
        "1",
        "--passages",
        "2",
        "--order",
        "gold-first",
        "--modes",
        "block",
        "--max-tokens",
        "1",
        "--no-ask-again",
      ],
    },
    {
      name: "eval repair",
      input: "rag",
      inside: "repair.md",
      args: (input, output) => [
        ...["--input", input, "--output", output, "--limit", "1", "--passages", "2", "--max-tokens", "1"],
      ],
    },
    {
      name: "eval table",
      input: "rag",
      inside: "accuracy.md",
      args: (input, output) => [
        ...["--rows", rowsFile, "--input", input, "--output", output, "--limit", "1", "--max-tokens", "1"],
      ],
    },
    {
      name: "eval ttft",
      input: "passages",
      inside: "ttft.md",
      args: (input, output) => [
        "--input",
        input,
        "--output",
        output,
        "--lengths",
        "50",
        "--question",
        "20",
        "--passage-tokens",
        "30",
        "--repeat",
        "1",
      ],
    },
  ];
  const rowsFile = join(folder, "table-rows.json");

  beforeAll(async () => {
    await buildDist();
    server = await fakeChatServer();
    writeFileSync(
      rowsFile,
      JSON.stringify([{ name: "ours", model: join(projectRoot, "models", "tiny-rag"), mode: "block" }]),
    );
  }, 120_000);
  afterAll(() => server[Symbol.asyncDispose]());

  /** A folder with the command's input. */
  const prepared = ({ input }: Writing, name?: string): { at: string; input: string } => {
    const at = freshFolder();
    if (input === "model") {
      writeRandomModel(join(at, "model"), { architecture: "llama", seed: 61 });
      return { at, input: join(at, "model", "model.safetensors") };
    }
    const path = join(at, name ?? "input.jsonl");
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, input === "rows" ? twoHopRows : texts[input]);
    return { at, input: path };
  };
  const argsOf = ({ name, args }: Writing, input: string, output: string): string[] => [
    ...name.split(" "),
    ...args(input, output),
  ];
  /** What a command is told to write for a file to stand at `file`. */
  const outputFor = ({ inside }: Writing, file: string): string => (inside === undefined ? file : dirname(file));
  /** A file that the command is about to write. */
  const fileIn = ({ inside }: Writing, at: string): string =>
    inside === undefined ? join(at, "output") : join(at, "output", inside);

  /** It must end with one line that says why, before any work, with nothing changed below the folder. */
  const refused = async (
    writing: Writing,
    at: string,
    input: string,
    output: string,
    why: RegExp,
    force = true,
  ): Promise<void> => {
    const before = stateOf(at);
    const { error, stderr, stdout } = await runCli([...argsOf(writing, input, output), ...(force ? ["--force"] : [])]);
    expect(error?.message).toMatch(/^Cannot write "[^\n]*[^.\n]$/);
    expect(error?.message).toMatch(why);
    expect({ stderr, stdout }).toEqual({ stderr: "", stdout: "" });
    expect(stateOf(at)).toEqual(before);
  };

  test("outputs: every command with an option for one is in the table", () => {
    const named = new Set([...commands.map(({ name }) => name), "export", "train-tokenizer"]);
    const found: string[] = [];
    const parse = Command.prototype.parseAsync;
    Command.prototype.parseAsync = async function parseNothing(this: Command) {
      const visit = (command: Command, path: string[]): void => {
        if (command.options.some(({ long }) => /^--output/.test(long ?? ""))) found.push(path.join(" "));
        for (const below of command.commands) visit(below, [...path, below.name()]);
      };
      visit(this, []);
      return this;
    };
    try {
      void createProgram({} as never).run([]);
    } finally {
      Command.prototype.parseAsync = parse;
    }
    expect(found.sort()).toEqual([...named].sort());
  });

  describe.skipIf(process.platform === "win32").each(commands)("outputs: $name", (writing) => {
    test("an output that is the input is refused, however it is spelled", async () => {
      // Of a folder the input has the name of what is written there.
      const { at, input } = prepared(writing, writing.inside && join("x", writing.inside));
      const same = /it is the same file as ".*", which is read/;
      const own = writing.inside ?? basename(input);
      await refused(writing, at, input, outputFor(writing, input), same);
      const around = join(dirname(input), "..", basename(dirname(input)), own);
      await refused(writing, at, input, outputFor(writing, around), same);
      await refused(writing, at, input, outputFor(writing, relative(process.cwd(), input)) || ".", same);
      mkdirSync(join(at, "links"));
      linkSync(input, join(at, "links", own));
      await refused(writing, at, input, outputFor(writing, join(at, "links", own)), same);
      mkdirSync(join(at, "folders"));
      symlinkSync(dirname(input), join(at, "folders", "link"));
      await refused(writing, at, input, outputFor(writing, join(at, "folders", "link", own)), same);
      mkdirSync(join(at, "symbolic"));
      symlinkSync(input, join(at, "symbolic", own));
      await refused(writing, at, input, outputFor(writing, join(at, "symbolic", own)), /it is a symbolic link/);
    });

    test("what is written beside an output, and what was beside an input, is refused as well", async () => {
      const { at, input } = prepared(writing);
      const file = fileIn(writing, at);
      mkdirSync(dirname(file), { recursive: true });
      linkSync(input, `${file}.partial`);
      await refused(
        writing,
        at,
        input,
        outputFor(writing, file),
        /\.partial": it is the same file as ".*", which is read/,
      );
      rmSync(`${file}.partial`);
      writeFileSync(file, "manifest");
      linkSync(file, `${input}.manifest.json`);
      const belongs = /it is the same file as ".*\.manifest\.json", which belongs to/;
      if (writing.input !== "model") await refused(writing, at, input, outputFor(writing, file), belongs);
    });

    test("an output that is there wants --force, and what is no regular file is refused before work starts", async () => {
      const { at, input } = prepared(writing);
      const file = fileIn(writing, at);
      const output = outputFor(writing, file);
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, "mine");
      await refused(writing, at, input, output, /there is such a file, wanted another name or --force/, false);
      rmSync(file);
      writeFileSync(join(at, "elsewhere"), "mine");
      symlinkSync(join(at, "elsewhere"), file);
      await refused(writing, at, input, output, /it is a symbolic link, wanted a regular file or a free name/);
      rmSync(file);
      symlinkSync(join(at, "nowhere"), file);
      await refused(writing, at, input, output, /it is a symbolic link/);
      rmSync(file);
      execFileSync(pipeMaker, [file]);
      await refused(writing, at, input, output, /it is a named pipe, wanted a regular file or a free name/);
      rmSync(file);
      mkdirSync(file);
      await refused(writing, at, input, output, /it is a folder, wanted a regular file or a free name/);
      rmSync(file, { recursive: true });
      execFileSync(pipeMaker, [`${file}.partial`]);
      await refused(writing, at, input, output, /\.partial": it is a named pipe/);
      expect(lstatSync(`${file}.partial`).isFIFO()).toBe(true);
    });

    test("it writes, and with --force writes over what is there", async () => {
      const { at, input } = prepared(writing);
      const before = readFileSync(input);
      const file = fileIn(writing, join(at, "new", "folders"));
      const first = await runCli(argsOf(writing, input, outputFor(writing, file)));
      expect(first.error).toBe(undefined);
      const written = readFileSync(file);
      if (writing.inside === undefined) {
        writeFileSync(file, "old");
        // What an interrupted or finished run of its own left would be gone on with.
        for (const name of readdirSync(dirname(file))) if (name !== basename(file)) rmSync(join(dirname(file), name));
      }
      const again = await runCli([...argsOf(writing, input, outputFor(writing, file)), "--force"]);
      expect(again.error).toBe(undefined);
      if (writing.inside === undefined) expect(readFileSync(file).equals(written)).toBe(true);
      expect(readFileSync(input).equals(before)).toBe(true);
      expect(namesBelow(at).filter((name) => /partial|lock$/.test(name))).toEqual([]);
      const belongs = (name: string) => writing.inside !== undefined || name.startsWith(basename(file));
      expect(readdirSync(dirname(file)).filter((name) => !belongs(name))).toEqual([]);
    });

    test("two at once: one of them at least writes it, and the other says so", async () => {
      const { at, input } = prepared(writing);
      const file = fileIn(writing, at);
      const args = argsOf(writing, input, outputFor(writing, file));
      const both = await Promise.all([runCli(args), runCli(args)]);
      const messages = both.flatMap(({ error }) => (error === undefined ? [] : [error.message]));
      expect(messages.length).toBeLessThan(2);
      for (const message of messages) {
        expect(message).toMatch(/^Cannot (?:write|run in) "[^"]+": (?:process \d+ does|there is such a file)/);
      }
      expect(existsSync(file)).toBe(true);
      expect(namesBelow(at).filter((name) => /partial|lock$/.test(name))).toEqual([]);
    });
  });

  describe.skipIf(process.platform === "win32").each(commands.slice(0, size.numDisturbed))(
    "outputs: $name",
    (writing) => {
      test("a disk that takes no more gives one line, and what was there stays", async () => {
        const { at, input } = prepared(writing);
        const file = fileIn(writing, at);
        mkdirSync(dirname(file), { recursive: true });
        writeFileSync(file, "old");
        const args = [...argsOf(writing, input, outputFor(writing, file)), "--force"];
        const { code, stderr } = await inProcess(args, "ulimit -f 0; ");
        // Other lines say what goes on.
        const told = stderr.split("\n").filter((line) => /^(Cannot|.*Error|\s+at )/.test(line));
        expect(told).toEqual([expect.stringMatching(/^Cannot (write|go on).*: a file may not be that large here$/)]);
        expect(code).toBe(1);
        expect(readFileSync(file, "utf8")).toBe("old");
        if (writing.name !== "data answer")
          expect(namesBelow(at).filter((name) => /partial$/.test(name) && statSync(name).size > 0)).toEqual([]);
      }, 60_000);

      test("killed at any moment, it leaves the old output or the new one", async () => {
        const whole = prepared(writing);
        const wholeFile = fileIn(writing, whole.at);
        const startedAt = performance.now();
        expect((await inProcess(argsOf(writing, whole.input, outputFor(writing, wholeFile)))).code).toBe(0);
        const tookMs = performance.now() - startedAt;
        for (let kill = 0; kill < size.numKills; kill++) {
          const { at, input } = prepared(writing);
          const file = fileIn(writing, at);
          mkdirSync(dirname(file), { recursive: true });
          writeFileSync(file, "old");
          const args = [...argsOf(writing, input, outputFor(writing, file)), "--force"];
          // Most of the time goes into starting: kills fall into the work.
          const killed = await inProcess(args, "", tookMs * (0.5 + (0.5 * (kill + 0.5)) / size.numKills));
          // Reports hold times, which differ.
          const isWhole = (left: Buffer): boolean =>
            writing.inside === undefined ? left.equals(readFileSync(wholeFile)) : left.length > 100;
          const left = readFileSync(file);
          if (!isWhole(left)) expect(left.toString("latin1").slice(0, 1000)).toBe("old");
          // What was killed is no obstacle.
          if (killed.code !== 0) expect((await inProcess(args)).code).toBe(0);
          expect(isWhole(readFileSync(file))).toBe(true);
        }
      }, 600_000);
    },
  );

  test.skipIf(process.platform === "win32")(
    "export, train-tokenizer: what would be lost is refused before Python is looked for",
    async () => {
      const at = freshFolder();
      const checkpoint = join(at, "run", "checkpoint-1");
      mkdirSync(checkpoint, { recursive: true });
      writeFileSync(join(checkpoint, "config.json"), '{"block_attention":{}}');
      mkdirSync(join(at, "mine"));
      writeFileSync(join(at, "mine", "letter.txt"), "dear");
      mkdirSync(join(at, "model"));
      writeFileSync(join(at, "model", "config.json"), "{}");
      symlinkSync(join(at, "model"), join(at, "link"));
      const text = [join(at, "mine", "letter.txt")];
      const settings = {
        ...{ output_folder: at, run_name: "tokenizer", model: { architecture: { model_type: "llama" } } },
        ...{ tokenizer: { text }, data: { text, modes: ["full"] } },
        ...{ optimizer: { learning_rate: 0.001 }, training: { steps: 1, rows_per_step: 1 } },
      };
      writeFileSync(join(at, "settings.json"), JSON.stringify(settings));
      writeFileSync(join(at, "file"), "mine");
      const python = ["--python", join(at, "no-python")];
      const before = stateOf(at);
      const refusedRun = async (args: readonly string[], why: RegExp): Promise<void> => {
        expect((await runCli([...args, ...python])).error?.message).toMatch(why);
        expect(stateOf(at)).toEqual(before);
      };
      const exportTo = (output: string, ...more: string[]) => [
        "export",
        "--checkpoint",
        checkpoint,
        "--output",
        join(at, output),
        ...more,
      ];
      await refusedRun(exportTo("run/checkpoint-1", "--force"), /"[^"]*checkpoint-1", which is read, lies in it$/);
      await refusedRun(exportTo("run", "--force"), /which is read, lies in it$/);
      await refusedRun(exportTo("mine"), /there is such a folder, wanted another name or --force$/);
      await refusedRun(
        exportTo("mine", "--force"),
        /it has no "config.json", wanted a folder with one or a free name$/,
      );
      await refusedRun(exportTo("model"), /there is such a folder, wanted another name or --force$/);
      await refusedRun(exportTo("link", "--force"), /it is a symbolic link, wanted a folder or a free name$/);
      await refusedRun(exportTo("file", "--force"), /it is a file, wanted a folder or a free name$/);
      await refusedRun(exportTo("model", "--force"), /Cannot use Python/);
      await refusedRun(
        ["train-tokenizer", "--config", join(at, "settings.json"), "--output", join(at, "file")],
        /it is no folder$/,
      );
      const exported = join(at, "other", "export");
      mkdirSync(exported, { recursive: true });
      for (const name of ["config.json", "tokenizer.json", "model.safetensors"])
        writeFileSync(join(exported, name), "{}");
      const onward = { ...settings, run_name: "other", model: { path: exported }, tokenizer: null };
      writeFileSync(join(at, "onward.json"), JSON.stringify(onward));
      const train = await runCli(["train", "--config", join(at, "onward.json"), ...python]);
      expect(train.error?.message).toMatch(/^Cannot write ".*export": ".*export", which is read, lies in it$/);
      linkSync(join(at, "settings.json"), join(at, "model", "tokenizer.json"));
      const tokenizer = ["train-tokenizer", "--config", join(at, "settings.json"), "--output", join(at, "model")];
      expect((await runCli([...tokenizer, "--force", ...python])).error?.message).toMatch(/which is read$/);
      rmSync(join(at, "model", "tokenizer.json"));
      writeFileSync(join(at, "model", "tokenizer.json"), "mine");
      expect((await runCli([...tokenizer, ...python])).error?.message).toMatch(/wanted another name or --force$/);
      expect(readFileSync(join(at, "model", "tokenizer.json"), "utf8")).toBe("mine");
    },
  );

  test("eval rag, data answer: what is gone on with is told on standard error", async () => {
    const rag = commands.find(({ name }) => name === "eval rag") as Writing;
    const { at, input } = prepared(rag);
    const args = argsOf(rag, input, join(at, "run"));
    expect((await runCli(args)).stderr).not.toContain("Going on");
    const again = await runCli(args);
    expect(again.error).toBe(undefined);
    expect(again.stderr).toContain(`Going on in ${JSON.stringify(join(at, "run"))}: 2 questions were answered\n`);
    const answer = commands.find(({ name }) => name === "data answer") as Writing;
    const asked = argsOf(answer, input, join(at, "answered.jsonl"));
    expect((await runCli(asked)).stderr).toBe("");
    const asks = server.requests.length;
    const answered = await runCli(asked);
    expect(answered).toMatchObject({
      code: 0,
      stderr: expect.stringMatching(/^Going on with ".*journal\.jsonl": 120 questions were asked\n$/),
    });
    expect(server.requests.length).toBe(asks);
  });

  test.skipIf(process.platform === "win32")(
    "the program: a closed or full standard output, few files, and a home that is none give one line at most",
    async () => {
      const at = freshFolder();
      const input = join(at, "texts.jsonl");
      writeFileSync(input, '{"text":"hello world, again and again"}\n'.repeat(20_000));
      const tokenize = ["tokenize", "--input", input];
      const silent = { code: 0, stderr: "" };
      expect(await inProcess([...tokenize], "", undefined, "| head -n 1; exit $PIPESTATUS")).toMatchObject(silent);
      expect(await inProcess(["tokenize", "--text", "a"], "", undefined, ">&-")).toMatchObject(silent);
      const full = await inProcess(tokenize, "ulimit -f 8; ", undefined, `> '${join(at, "out")}'`);
      expect(full).toMatchObject({
        code: 1,
        stderr: 'Cannot write "standard output": a file may not be that large here\n',
      });
      for (const limit of [24, 64]) {
        const few = await inProcess(["generate", "--prompt", "a", "--max-tokens", "1"], `ulimit -n ${limit}; `);
        expect(few).toMatchObject({ code: 1, stderr: "Cannot go on: too many files are open\n" });
      }
      writeFileSync(join(at, "config.json"), '{"block_attention":{}}');
      // A folder that takes no new one and, on Linux, one that says that it does not exist.
      for (const home of [input, ...(existsSync("/proc/self/fd") ? ["/proc"] : [])]) {
        const started = await inProcess(
          ["generate", "--prompt", "a", "--max-tokens", "1"],
          `export HOME='${home}'; unset XDG_CACHE_HOME; `,
        );
        expect(started.code).toBe(0);
        const exported = ["export", "--checkpoint", at, "--output", join(home, "no", "model"), "--python", "none"];
        expect(await inProcess(exported)).toMatchObject({
          code: 1,
          stderr: expect.stringMatching(/^Cannot write [^\n]*\n$/),
        });
      }
    },
    120_000,
  );

  test.skipIf(!existsSync("/proc/self/fd"))("a model that cannot be loaded leaves no file open", async () => {
    const at = freshFolder();
    const input = join(at, "prompts.jsonl");
    writeFileSync(input, '{"prompt":"a"}\n');
    const openFiles = (): string[] =>
      readdirSync("/proc/self/fd").flatMap((fd) => {
        try {
          const path = readlinkSync(`/proc/self/fd/${fd}`);
          return path.startsWith(at) || path.includes("tiny-rag") ? [path] : [];
        } catch {
          return [];
        }
      });
    await expect(Engine.load({ device: "nothing" })).rejects.toThrow("nothing");
    for (const name of ["generate", "score"]) {
      const { error } = await runCli([name, "--input", input, "--device", "nothing"]);
      expect(error?.message).toContain("nothing");
    }
    for (const name of ["tokenize", "segment"]) {
      const { error } = await runCli([name, "--input", input, "--model", join(at, "nothing.gguf")]);
      expect(error?.message).toContain("nothing.gguf");
    }
    // Closing takes a turn or two; a collector of garbage, which closes as well, takes longer.
    await expect.poll(openFiles, { timeout: 2000 }).toEqual([]);
  });
}

const twoHopRows = lines(
  Array.from({ length: 30 }, (_, i) => ({
    _id: `t${i}`,
    question: `Which town is ${i} in?`,
    answer: "a town",
    type: "bridge",
    context: passages.slice(0, 4).map(({ title, text }) => [title, [text]]),
    supporting_facts: [["Person 1", 0]],
  })),
);

function namesBelow(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? namesBelow(path) : [path];
  });
}

/** What stands below a folder: kinds, inodes and contents. */
function stateOf(folder: string): unknown {
  return namesBelow(folder)
    .sort()
    .map((path) => {
      const found = lstatSync(path);
      return [path, found.ino, found.mode, found.isFile() ? readFileSync(path, "latin1") : ""];
    });
}

/** Runs the program in a process of its own, from bash. @param killAfterMs undefined: it ends by itself. */
function inProcess(
  args: readonly string[],
  before = "",
  killAfterMs?: number,
  after = "",
): Promise<{ code: number | null; stderr: string }> {
  const main = join(projectRoot, "dist", "cli", "main.js");
  const script = `${before}${after === "" ? "exec " : ""}"$@" ${after}`;
  const child = spawn("bash", ["-c", script, "bash", process.execPath, main, ...args], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  const timer = killAfterMs === undefined ? undefined : setTimeout(() => child.kill("SIGKILL"), killAfterMs);
  let stderr = "";
  child.stderr.on("data", (part: Buffer) => {
    stderr += part;
  });
  return new Promise((resolve) =>
    child.on("close", (code) => {
      clearTimeout(timer);
      resolve({ code, stderr });
    }),
  );
}
