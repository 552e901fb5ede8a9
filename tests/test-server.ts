import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { createConnection, createServer } from "node:net";
import { onTestFinished } from "vitest";
import { temporaryFolder } from "../src/files/test-files.suite.js";

/** The first of some programs that is installed. */
export function installed(programs: readonly string[], ...args: readonly string[]): string | undefined {
  return programs.find((program) => spawnSync(program, args, { stdio: "ignore" }).status === 0);
}

/** Another program's server at a free port, killed when the test is over. */
export class TestServer {
  #process: ChildProcess | undefined;

  private constructor(
    readonly port: number,
    private readonly program: string,
    private readonly args: readonly string[],
  ) {}

  static async start(program: string, argsOf: (port: number) => readonly string[]): Promise<TestServer> {
    const port = await freePort();
    const server = new TestServer(port, program, argsOf(port));
    await server.start();
    onTestFinished(() => server.kill());
    return server;
  }

  async start(): Promise<void> {
    this.#process = spawn(this.program, this.args, { stdio: "ignore" });
    await listens(this.port);
  }

  signal(signal: NodeJS.Signals): void {
    this.#process?.kill(signal);
  }

  async kill(): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    if (child === undefined || child.exitCode !== null) return;
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await ended;
  }
}

const redis = installed(["valkey-server", "redis-server"], "--version");
/** Why no Redis can be started; undefined where one can. */
export const whyNoRedis = redis === undefined ? "neither valkey-server nor redis-server is installed" : undefined;

const moto = installed(["moto_server"], "--help");
/** Why no S3 can be started; undefined where one can. */
export const whyNoS3 =
  moto === undefined ? "there is no moto_server: pip install -r tests/laws/requirements.txt gives it" : undefined;

/** An S3 of Python's moto, in memory alone. */
export async function startS3(): Promise<TestServer> {
  return await TestServer.start(moto as string, (port) => ["-H", "127.0.0.1", "-p", String(port)]);
}

/** A Redis in memory alone. */
export async function startRedis(...args: readonly string[]): Promise<TestServer> {
  const folder = await temporaryFolder();
  return await TestServer.start(redis as string, (port) => [
    ...["--bind", "127.0.0.1", "--port", String(port), "--save", "", "--dir", folder],
    ...args,
  ]);
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Resolves once somebody listens there. @throws Error where nobody does after half a minute. */
async function listens(port: number): Promise<void> {
  for (let tries = 0; tries < 600; tries++) {
    const isThere = await new Promise<boolean>((resolve) => {
      const socket = createConnection(port, "127.0.0.1");
      socket.once("error", () => resolve(false));
      socket.once("connect", () => {
        socket.destroy();
        resolve(true);
      });
    });
    if (isThere) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`Cannot use the server at port ${port}: it does not listen`);
}
