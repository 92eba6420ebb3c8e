// What a browser reports about the page and the network.

/** If a page was hidden for longer than this, in milliseconds, its connection may be dead. */
const longHidden = 30_000;

/**
 * Calls wake when there is a reason to connect at once, until the signal aborts. renew is true if the current connection
 * is probably dead. Outside a browser, it never calls wake.
 */
export function watchPage(wake: (renew: boolean) => void, signal: AbortSignal): void {
  const page = globalThis.document as Document | undefined;
  if (!page) {
    return;
  }
  let hidden = page.hidden ? Date.now() : 0;
  addEventListener("online", () => wake(true), { signal });
  // A browser can keep a page in memory and show it again later. It silently closes the connections of such a page.
  addEventListener("pageshow", ({ persisted }) => persisted && wake(true), { signal });
  // This needs the wall clock, because it counts the time that a machine sleeps. If the clock jumps, the client only
  // makes a new connection without need.
  const shown = () => {
    if (page.hidden) {
      hidden = Date.now();
    } else {
      wake(hidden > 0 && Date.now() - hidden > longHidden);
    }
  };
  page.addEventListener("visibilitychange", shown, { signal });
}
