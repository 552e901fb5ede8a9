import type { Socket } from "node:net";
import { ApiError, errorBody } from "./api-error.js";

/** Answers what is no HTTP, came too slowly or has too large a head: OpenAI's form here too, then the end. */
export function answerClientError(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === "ECONNRESET" || socket.destroyed) return;
  if (!socket.writable) {
    socket.destroy(error);
    return;
  }
  const told = describe(error);
  const body = JSON.stringify(errorBody(told));
  socket.end(
    `HTTP/1.1 ${told.statusCode} ${reasons[told.statusCode] ?? "Error"}\r\n` +
      `Content-Type: application/json; charset=utf-8\r\nContent-Length: ${Buffer.byteLength(body)}\r\n` +
      `Connection: close\r\n\r\n${body}`,
  );
}

const reasons: Readonly<Record<number, string>> = {
  400: "Bad Request",
  408: "Request Timeout",
  431: "Request Header Fields Too Large",
};

function describe({ code }: NodeJS.ErrnoException): ApiError {
  switch (code) {
    case "ERR_HTTP_REQUEST_TIMEOUT":
      return new ApiError(408, "Cannot read the request: it did not arrive within the time", {
        code: "request_timeout",
      });
    case "HPE_HEADER_OVERFLOW":
      return new ApiError(431, "Cannot read the request: its head is larger than allowed", { code: "head_too_large" });
    default:
      return new ApiError(400, "Cannot read the request: it is no HTTP", { code: "invalid_http" });
  }
}
