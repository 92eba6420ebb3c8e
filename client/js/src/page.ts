// What a browser tells about the page and the network.

/** How long a page may be hidden before its connection is not trusted any more, in milliseconds. */
const longHidden = 30_000;

/**
 * Calls back when there is a reason to try at once: with true if the present connection is likely dead too. Returns
 * a function that ends this. Outside of a browser nothing is ever called.
 */
export function watchPage(wake: (renew: boolean) => void): () => void {
  const target = globalThis as Partial<Pick<Window, "addEventListener" | "removeEventListener" | "document">>;
  const page = target.document;
  if (!page || !target.addEventListener) {
    return () => {};
  }
  let hidden = page.hidden ? Date.now() : 0;
  const online = () => wake(true);
  // A page that comes back from the browser's memory had its connections closed without a word.
  const shown = (event: Event) => (event as PageTransitionEvent).persisted && wake(true);
  // The wall clock counts the time that a machine sleeps. If it jumps, a connection is made anew for nothing.
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
