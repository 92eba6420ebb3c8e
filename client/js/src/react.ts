// React: one client for a page, which any number of components use.

import {
  createContext,
  createElement,
  useCallback,
  useContext,
  useEffect,
  useInsertionEffect,
  useRef,
  useState,
  useSyncExternalStore,
  type FunctionComponentElement,
  type ReactNode,
} from "react";

import type { End, Listener, Megaphone, Message, State } from "./index.js";
import type { Tab } from "./shared.js";

/** The newest message of a stream, and who wants to know of it. */
interface Latest {
  message: Message | undefined;
  watchers: Set<() => void>;
  unsubscribe: (() => void) | undefined;
}

const nothing = () => {};

/**
 * Makes a provider and the hooks that go with it. `Bodies` has the type of each stream's body, and `Client` is what
 * `create` returns: `Tab<Bodies>` if that is a tab of a shared worker.
 */
export function megaphoneHooks<
  Bodies extends object = Record<string, any>,
  Client extends Tab<Bodies> = Megaphone<Bodies>,
>() {
  type StreamId = keyof Bodies & string;
  const Context = createContext<Client | undefined>(undefined);
  const streams = new WeakMap<Client, Map<string, Latest>>();

  /** Calls `create` for a client when the page shows it, and closes that client when the page no longer does. */
  function MegaphoneProvider({
    create,
    children,
  }: {
    create: () => Client;
    children?: ReactNode;
  }): FunctionComponentElement<{ value: Client | undefined; children?: ReactNode }> {
    const [client, setClient] = useState<Client>();
    // An effect does not run on a server, nor for a page that React prepares and then discards.
    useEffect(() => {
      const made = create();
      setClient(made);
      return () => {
        setClient(undefined);
        made.close();
      };
    }, []);
    return createElement(Context.Provider, { value: client }, children);
  }

  /** Returns the client. It is undefined on a server, and until the page is shown. */
  function useMegaphone(): Client | undefined {
    return useContext(Context);
  }

  /** Returns the state of the connection. */
  function useConnection(): State {
    const client = useContext(Context);
    const watch = useCallback((changed: () => void) => client?.on("state", changed) ?? nothing, [client]);
    return useSyncExternalStore(
      watch,
      () => client?.state ?? "idle",
      () => "idle",
    );
  }

  /** Calls a listener for each message of a stream, and `end` when the stream ends. They may be new at each rendering. */
  function useMessages<S extends StreamId>(
    streamId: S,
    listener: Listener<Bodies[S], S>,
    end?: (end: End<S>) => void,
  ): void {
    const client = useContext(Context);
    const newest = useRef({ listener, end });
    // Unlike other effects, this one runs before the page can show what was rendered.
    useInsertionEffect(() => {
      newest.current = { listener, end };
    });
    useEffect(
      () =>
        client?.subscribe(
          streamId,
          (message) => newest.current.listener(message),
          (ended) => newest.current.end?.(ended),
        ),
      [client, streamId],
    );
  }

  /** Returns the newest message of a stream, or undefined before there is one. */
  function useLatest<S extends StreamId>(streamId: S): Message<Bodies[S], S> | undefined {
    const client = useContext(Context);
    const watch = useCallback((changed: () => void) => (client ? watchStream(client, streamId, changed) : nothing), [
      client,
      streamId,
    ]);
    return useSyncExternalStore(
      watch,
      () => client && (streams.get(client)?.get(streamId)?.message as Message<Bodies[S], S> | undefined),
      nothing as () => undefined,
    );
  }

  /** Keeps the newest message of a stream up to date while anybody watches it. All components share it. */
  function watchStream(client: Client, streamId: StreamId, changed: () => void): () => void {
    const known = streams.get(client) ?? new Map<string, Latest>();
    streams.set(client, known);
    const latest = known.get(streamId) ?? { message: undefined, watchers: new Set(), unsubscribe: undefined };
    known.set(streamId, latest);
    latest.watchers.add(changed);
    latest.unsubscribe ??= client.subscribe(streamId, (message) => {
      latest.message = message;
      latest.watchers.forEach((changed) => changed());
    });
    return () => {
      latest.watchers.delete(changed);
      if (latest.watchers.size === 0) {
        latest.unsubscribe?.();
        latest.unsubscribe = undefined;
      }
    };
  }

  return { MegaphoneProvider, useMegaphone, useConnection, useMessages, useLatest };
}
