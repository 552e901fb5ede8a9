import { STATUS_CODES } from "node:http";
import type { Socket } from "node:net";
import { ApiError, errorBody } from "./api-error.js";

/** Answers what is no HTTP, or has too large a head: OpenAI's form here too, then the end. */
export function answerClientError(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === "ECONNRESET" || socket.destroyed) return;
  if (!socket.writable) {
    socket.destroy(error);
    return;
  }
  endWithError(socket, describe(error));
}

/** Sends an error where there is no request that it could answer, and ends the server's side of the connection. */
export function endWithError(socket: Socket, told: ApiError): void {
  const body = JSON.stringify(errorBody(told));
  const headers = {
    ...told.headers,
    connection: "close",
    "content-type": "application/json; charset=utf-8",
    "content-length": Buffer.byteLength(body),
  };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(`HTTP/1.1 ${told.statusCode} ${STATUS_CODES[told.statusCode]}\r\n${lines.join("")}\r\n${body}`);
}

function describe({ code }: NodeJS.ErrnoException): ApiError {
  switch (code) {
    case "HPE_HEADER_OVERFLOW":
      return new ApiError(431, "Cannot read the request: its head is larger than allowed", { code: "head_too_large" });
    default:
      return new ApiError(400, "Cannot read the request: it is no HTTP", { code: "invalid_http" });
  }
}
