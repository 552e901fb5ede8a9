import fc from "fast-check";
import { expect, test } from "vitest";
import type { ApiError } from "./api-error.js";
import { ApiKeys } from "./api-keys.js";
import { createApp } from "./app.js";
import { FakeEngine } from "./fake-engine.suite.js";
import { type Quota, type QuotaReason, Quotas, TokenWindow } from "./quotas.js";
import { loadConfig } from "./server-config.js";

const minute = 60_000;

/** What a call throws. */
function refusalOf(call: () => unknown): ApiError {
  try {
    call();
  } catch (error) {
    return error as ApiError;
  }
  throw new Error("Cannot see a refusal: there was none");
}

test("TokenWindow: what goes over the limit is booked as early as there is room", () => {
  const window = new TokenWindow();
  window.book(130, 100, 0);
  expect([window.left(100, 0), window.waitMs(100, 0)]).toEqual([0, minute]);
  expect([window.left(100, minute - 1), window.left(100, minute), window.waitMs(100, minute)]).toEqual([0, 70, 0]);
  window.book(70, 100, minute + 5);
  expect([window.waitMs(100, minute + 5), window.left(100, 2 * minute), window.left(100, 3 * minute)]).toEqual([
    minute - 5,
    30,
    100,
  ]);
  // A quota that became smaller.
  window.book(90, 100, 3 * minute);
  window.book(10, 100, 3 * minute + 10);
  expect(window.waitMs(11, 3 * minute + 10)).toBe(minute - 10);
  expect(window.waitMs(10, 3 * minute + 10)).toBe(minute);
});

const step = fc.record({
  key: fc.nat(2),
  afterMs: fc.oneof(fc.nat(50), fc.nat(20_000)),
  what: fc.constantFrom("begin", "begin", "tokens", "end"),
  tokens: fc.integer({ min: 1, max: 150 }),
});

test("Quotas: random traffic of several keys begins exactly where its key's quota has room, and booked tokens never pass it", () => {
  const quotas: readonly Quota[] = [{ tokensPerMinute: 100, requests: 2 }, { tokensPerMinute: 40 }, { requests: 1 }];
  fc.assert(
    fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
      let now = 0;
      const refused: QuotaReason[] = [];
      const meter = new Quotas(
        {},
        () => now,
        (reason) => refused.push(reason),
      );
      const keys = quotas.map((quota, i) => ({
        holder: { salt: String(i), quota },
        running: [] as (() => void)[],
        /** A token each, at the time when it was booked: the slow and obvious way. */
        booked: [] as number[],
      }));
      for (const { key, afterMs, what, tokens } of steps) {
        now += afterMs;
        const { holder, running, booked } = keys[key] as (typeof keys)[number];
        const { tokensPerMinute: limit = Infinity, requests = Infinity } = holder.quota;
        const inMinute = (end: number) => booked.filter((at) => at > end - minute && at <= end).length;
        if (what === "end") running.shift()?.();
        else if (what === "tokens" && running.length > 0) {
          meter.book(holder, tokens);
          if (limit === Infinity) continue;
          for (let i = 0; i < tokens; i++) {
            let at = Math.max(now, booked.at(-1) ?? now);
            while (inMinute(at) >= limit) at = (booked.find((one) => one > at - minute) as number) + minute;
            booked.push(at);
          }
        } else if (what === "begin") {
          const hasDebt = (booked.at(-1) ?? now) > now;
          const reason =
            running.length >= requests ? "requests" : hasDebt || inMinute(now) >= limit ? "tokens" : undefined;
          refused.length = 0;
          if (reason === undefined) {
            const { headers, end } = meter.begin(holder);
            running.push(end);
            if (limit < Infinity) expect(headers["x-ratelimit-remaining-tokens"]).toBe(String(limit - inMinute(now)));
            if (requests < Infinity)
              expect(headers["x-ratelimit-remaining-requests"]).toBe(String(requests - running.length));
          } else {
            const { statusCode, type, headers } = refusalOf(() => meter.begin(holder));
            expect([statusCode, type, refused]).toEqual([429, reason, [reason]]);
            // Nobody who waits as long as the answer says is refused for tokens again, and nobody waits a second too long.
            if (reason === "tokens") {
              const readyAt = now + 1000 * Number(headers["retry-after"]);
              const hasRoom = (at: number) => (booked.at(-1) as number) <= at && inMinute(at) < limit;
              expect(hasRoom(readyAt) && !hasRoom(readyAt - 1000)).toBe(true);
            }
          }
        }
      }
      for (const { booked, holder } of keys) {
        for (const at of booked) {
          const inMinute = booked.filter((one) => one > at - minute && one <= at).length;
          expect(inMinute).toBeLessThanOrEqual(holder.quota.tokensPerMinute ?? Infinity);
        }
      }
    }),
    { numRuns: 300 },
  );
});

test("Quotas: a key's own quota stands in a default's place, also where it is none; ending twice counts once", () => {
  const meter = new Quotas(
    { requests: 1 },
    () => 0,
    () => undefined,
  );
  const [plain, more, free] = [{}, { requests: 2 }, { requests: undefined }].map((quota, i) => ({
    salt: String(i),
    quota,
  })) as [Holder, Holder, Holder];
  const { end } = meter.begin(plain);
  expect(refusalOf(() => meter.begin(plain)).headers).toEqual({
    "x-ratelimit-limit-requests": "1",
    "x-ratelimit-remaining-requests": "0",
    "retry-after": "1",
  });
  end();
  end();
  meter.begin(plain);
  expect(refusalOf(() => meter.begin(plain)).code).toBe("rate_limit_exceeded");
  for (let i = 0; i < 2; i++) meter.begin(more);
  expect(refusalOf(() => meter.begin(more)).type).toBe("requests");
  for (let i = 0; i < 9; i++) expect(meter.begin(free).headers).toEqual({});
});

type Holder = Parameters<Quotas["begin"]>[0];

test("Quotas: a limit that is none is refused", () => {
  for (const requests of [0, -1, 1.5, Number.NaN]) {
    expect(
      () =>
        new Quotas(
          { requests },
          () => 0,
          () => undefined,
        ),
    ).toThrow(/wanted a whole number from 1 on/);
  }
});

test("serve: a quota holds one key alone, tokens count as usage has them without cached ones, and a stream is not cut", async () => {
  const keys = new ApiKeys(
    new Map([
      ["limited", { key: "sk-limited-0123456789", quota: { tokensPerMinute: 60, requests: 1 } }],
      ["free", { key: "sk-free-0123456789", quota: {} }],
    ]),
  );
  const config = await loadConfig({ options: {}, env: {} });
  await using app = await createApp({ engine: new FakeEngine({ tokenMs: 3 }), config, keys });
  const ask = (key: string, payload: object) => {
    const headers = { authorization: `Bearer sk-${key}-0123456789` };
    return app.inject({ method: "POST", url: "/v1/completions", headers, payload: { prompt: "a b c", ...payload } });
  };
  const first = await ask("limited", { max_tokens: 5 });
  expect(first.headers).toMatchObject({
    "x-ratelimit-limit-requests": "1",
    "x-ratelimit-remaining-requests": "0",
    "x-ratelimit-limit-tokens": "60",
    "x-ratelimit-remaining-tokens": "60",
    "x-ratelimit-reset-tokens": "0.000s",
  });
  const computed = (usage: { total_tokens: number; prompt_tokens_details: { cached_tokens: number } }) =>
    usage.total_tokens - usage.prompt_tokens_details.cached_tokens;
  const used = computed(first.json().usage);

  const [long, refused] = await Promise.all([
    ask("limited", { max_tokens: 100, stream: true, logit_bias: { "1": -100 } }),
    ask("limited", {}),
  ]);
  expect(long.headers["x-ratelimit-remaining-tokens"]).toBe(String(60 - used));
  expect([refused.statusCode, refused.json().error.type, refused.headers["retry-after"]]).toEqual([
    429,
    "requests",
    "1",
  ]);
  expect(long.body.endsWith("data: [DONE]\n\n")).toBe(true);
  const metrics = async () => {
    const headers = { authorization: "Bearer sk-free-0123456789" };
    return (await app.inject({ url: "/metrics", headers })).body;
  };
  while ((await ask("limited", { max_tokens: 20 })).statusCode !== 429);
  const over = await ask("limited", {});
  expect(over.json().error).toMatchObject({ type: "tokens", code: "rate_limit_exceeded", param: null });
  expect(Number(over.headers["retry-after"])).toBeGreaterThan(50);
  expect(over.headers["x-ratelimit-remaining-tokens"]).toBe("0");
  // Looking and deleting go on; so does everybody else.
  const headers = { authorization: "Bearer sk-limited-0123456789" };
  expect((await app.inject({ url: "/v1/models", headers })).statusCode).toBe(200);
  const free = await ask("free", {});
  expect(free.statusCode).toBe(200);
  expect(Object.keys(free.headers).filter((name) => name.startsWith("x-ratelimit"))).toEqual([]);
  const counts = (await metrics()).match(/(?<=quota_refusals_total)\{.*/g)?.sort();
  expect(counts).toEqual(['{reason="requests"} 1', '{reason="tokens"} 2']);
});
