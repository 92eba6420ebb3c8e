// What a browser reports about the page and the network.

/** If a page was hidden for longer than this, in milliseconds, its connection may be dead. */
const longHidden = 30_000;

/**
 * Calls wake when there is a reason to connect at once. renew is true if the current connection is probably dead. It
 * returns a function that ends this. Outside a browser, it never calls wake.
 */
export function watchPage(wake: (renew: boolean) => void): () => void {
  const target = globalThis as Partial<Pick<Window, "addEventListener" | "removeEventListener" | "document">>;
  const page = target.document;
  if (!page || !target.addEventListener) {
    return () => {};
  }
  let hidden = page.hidden ? Date.now() : 0;
  const online = () => wake(true);
  // A browser can keep a page in memory and show it again later. It silently closes the connections of such a page.
  const shown = (event: Event) => (event as PageTransitionEvent).persisted && wake(true);
  // This needs the wall clock, because it counts the time that a machine sleeps. If the clock jumps, the client only
  // makes a new connection without need.
  const visibility = () => {
    if (page.hidden) {
      hidden = Date.now();
    } else {
      wake(hidden > 0 && Date.now() - hidden > longHidden);
    }
  };
  target.addEventListener("online", online);
  target.addEventListener("pageshow", shown);
  page.addEventListener("visibilitychange", visibility);
  return () => {
    target.removeEventListener!("online", online);
    target.removeEventListener!("pageshow", shown);
    page.removeEventListener("visibilitychange", visibility);
  };
}
