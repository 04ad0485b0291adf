// Asks the server; shows what it says when it refuses; asks for a key where one is needed.

import { objects } from "./stream.js";

const KEPT = "factorlm.key";

/** What a server answered instead of what was wanted. */
export class Refusal extends Error {
  constructor(status, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export class Server {
  /** `askForKey(message)` resolves to a key, or to null if the visitor has none. */
  constructor(askForKey, storage = globalThis.sessionStorage) {
    this.askForKey = askForKey;
    this.storage = storage;
    this.key = storage?.getItem(KEPT) ?? "";
    this.asking = null;
  }

  setKey(key) {
    this.key = key;
    if (key === "") this.storage?.removeItem(KEPT);
    else this.storage?.setItem(KEPT, key);
  }

  /** The answer as an object. */
  async ask(path, options = {}) {
    const response = await this.fetch(path, options);
    return response.status === 204 ? null : response.json();
  }

  /** The objects of an event stream. */
  async *stream(path, options) {
    const response = await this.fetch(path, options);
    if ((response.headers.get("content-type") ?? "").includes("event-stream")) yield* objects(response.body);
    else yield await response.json();
  }

  async fetch(path, { method, body, signal } = {}) {
    for (;;) {
      const headers = {};
      const used = this.key;
      if (used !== "") headers.Authorization = `Bearer ${used}`;
      if (body !== undefined) headers["Content-Type"] = "application/json";
      let response;
      try {
        response = await fetch(path, {
          method: method ?? (body === undefined ? "GET" : "POST"),
          headers,
          body: body === undefined ? undefined : JSON.stringify(body),
          signal,
          cache: "no-store",
        });
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new Refusal(0, "The server does not answer. Is factorlm serve still running?");
      }
      if (response.ok) return response;
      const message = await reason(response);
      if (response.status !== 401) {
        throw new Refusal(response.status, message, Number(response.headers.get("retry-after")) || null);
      }
      if (this.key === used) {
        this.asking ??= this.askForKey(message).finally(() => (this.asking = null)); // one question for all who wait
        const key = await this.asking;
        if (key === null) throw new Refusal(401, message);
        this.setKey(key);
      }
    }
  }
}

async function reason(response) {
  try {
    const said = await response.json();
    return said.error?.message ?? said.detail?.[0]?.msg ?? said.detail ?? `the server said ${response.status}`;
  } catch {
    return `the server said ${response.status} ${response.statusText}`;
  }
}
