import { useEffect, useRef, useState } from "preact/hooks";
import type { ApiError } from "./api.js";

/** Asks for the key that the server wants; each new error of it takes the focus here. */
export function KeyForm({ error, onKey }: { error: ApiError; onKey: (key: string) => void }) {
  const [key, setKey] = useState("");
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => field.current?.focus(), [error]);
  return (
    <section class="panel key" aria-labelledby="key-title">
      <h2 id="key-title">This server wants a key</h2>
      <p class="error" role="alert">
        {error.message}
      </p>
      <form
        class="row wrap"
        onSubmit={(event) => {
          event.preventDefault();
          if (key.trim() !== "") onKey(key.trim());
        }}
      >
        <label class="key-field">
          Key
          <input
            ref={field}
            type="password"
            autocomplete="off"
            required
            value={key}
            onInput={(event) => setKey(event.currentTarget.value)}
          />
        </label>
        <button type="submit" class="button button-main">
          Use this key
        </button>
      </form>
      <p class="muted">
        A key of the file that the server was started with (<code>--keys</code>). It is kept for this tab only, until it
        is closed.
      </p>
    </section>
  );
}
