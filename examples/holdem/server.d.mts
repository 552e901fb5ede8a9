import type { Server } from "node:http";

/** @param engine an `Engine`, which stays its caller's. */
export declare function createHoldemServer(engine: object): Server;
