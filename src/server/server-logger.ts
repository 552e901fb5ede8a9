import { type DestinationStream, type Logger, pino } from "pino";

/** The server's log: a line of JSON each, without prompts, answers or keys at level "info". */
export function serverLogger(level: string, destination: DestinationStream): Logger {
  const options: pino.LoggerOptions = {
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    serializers: { err: pino.stdSerializers.errWithCause },
  };
  return pino(options, destination);
}
