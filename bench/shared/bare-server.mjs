// The least that a server with an engine in a process of its own can do: node:http reads JSON, a forked process computes
// for as long as it is told and sends it back, and it goes out as two server-sent events. What this adds to the first token
// is the machine's and Node's.
import { fork } from "node:child_process";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";

if (process.send === undefined) serve();
else {
  process.on("message", (message) => {
    const endsAt = performance.now() + message.request.computeMs;
    while (performance.now() < endsAt);
    process.send(message);
  });
}

function serve() {
  const child = fork(fileURLToPath(import.meta.url), { serialization: "advanced" });
  const replies = new Map();
  child.on("message", ({ id }) => replies.get(id)?.());
  let next = 0;
  const server = createServer((request, reply) => {
    const chunks = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", () => {
      if (chunks.length === 0) return reply.end();
      const id = next++;
      replies.set(id, () => {
        replies.delete(id);
        reply.writeHead(200, { "content-type": "text/event-stream" });
        reply.write(`data: ${JSON.stringify({ id })}\n\n`);
        reply.end("data: [DONE]\n\n");
      });
      child.send({ id, request: JSON.parse(Buffer.concat(chunks).toString("utf8")) });
    });
  });
  server.listen(0, "127.0.0.1", () => console.log(`Listening on http://127.0.0.1:${server.address().port}`));
}
