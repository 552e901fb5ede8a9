// A server that speaks as much of OpenAI's API as `data answer` needs, and answers after 50 ms, sooner than any model
// would. It prints its base URL.
import { createServer } from "node:http";

const message = { role: "assistant", content: "The director of the film is Köln." };
const body = JSON.stringify({ choices: [{ index: 0, message, finish_reason: "stop" }] });

const server = createServer((request, reply) => {
  request.resume();
  request.on("end", () => {
    setTimeout(() => {
      reply.writeHead(200, { "content-type": "application/json", "content-length": Buffer.byteLength(body) });
      reply.end(body);
    }, 50);
  });
});
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}/v1`));
