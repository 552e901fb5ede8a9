import { createHash } from "node:crypto";
import { createServer, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

/** What a fake server was asked. */
export interface FakeRequest {
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: Record<string, unknown>;
  /** The user message. */
  readonly prompt: string;
  /** How often this prompt was asked before. */
  readonly before: number;
}

/** An answer in place of the usual one; "break" closes the connection. */
export type FakeReply =
  | { readonly status: number; readonly headers?: Record<string, string>; readonly body?: string }
  | "break"
  | undefined;

export interface FakeChatServer extends AsyncDisposable {
  /** With "/v1". */
  readonly baseUrl: URL;
  readonly requests: readonly FakeRequest[];
  /** The most requests that were under way at the same time. */
  readonly most: () => number;
}

/** What the server answers to a prompt, always the same. */
export function fakeAnswer(prompt: string): string {
  return `Answer ${createHash("sha256").update(prompt).digest("hex").slice(0, 12)} – née "x"\n`;
}

/** The body of a usual answer. */
export function chatBody(content: unknown, finishReason = "stop"): string {
  return JSON.stringify({
    choices: [{ index: 0, message: { role: "assistant", content }, finish_reason: finishReason }],
  });
}

/** A server that answers chat completions the same each time, after as long as `delayMs` says. */
export async function fakeChatServer(
  reply: (request: FakeRequest) => FakeReply = () => undefined,
  delayMs: (request: FakeRequest) => number = () => 0,
): Promise<FakeChatServer> {
  const requests: FakeRequest[] = [];
  let running = 0;
  let most = 0;
  const server = createServer(async (incoming, outgoing) => {
    const parts: Buffer[] = [];
    for await (const part of incoming) parts.push(part as Buffer);
    const body = JSON.parse(Buffer.concat(parts).toString("utf8")) as Record<string, unknown>;
    const [message] = body.messages as { content: string }[];
    const prompt = message?.content ?? "";
    const before = requests.filter((other) => other.prompt === prompt).length;
    const request = { path: incoming.url ?? "", headers: incoming.headers, body, prompt, before };
    requests.push(request);
    running += 1;
    most = Math.max(most, running);
    await sleep(delayMs(request));
    running -= 1;
    const given = reply(request);
    if (given === "break") {
      outgoing.destroy();
      return;
    }
    outgoing.writeHead(given?.status ?? 200, { "content-type": "application/json", ...given?.headers });
    outgoing.end(given === undefined ? chatBody(fakeAnswer(prompt)) : (given.body ?? ""));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    baseUrl: new URL(`http://127.0.0.1:${port}/v1`),
    requests,
    most: () => most,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}
