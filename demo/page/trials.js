// What a visitor can try: the buttons, and what they did.

const $ = (id) => document.getElementById(id);

/**
 * Enables the buttons that the server offers. Without them, the page shows a command to type.
 * @param tell shows a sentence
 * @param account begins and cancels the account of messages over a reload
 */
export async function offerTrials(tell, account) {
	const state = await fetch("/demo/state").then((response) => response.ok && response.json()).catch(() => undefined);
	$("by-hand").hidden = Boolean(state);
	for (const id of ["reload", "stop", "look"]) {
		$(id).hidden = !state;
	}
	if (!state) {
		return;
	}
	$("inspector").href = state.inspector;
	$("reload").onclick = () => {
		account.begin(); // first, because the connection can move before the reply has come
		ask("reload", ({ milliseconds }) => account.took(milliseconds), account.cancel);
	};
	$("stop").textContent = `Stop the server for ${state.seconds} s`;
	$("stop").onclick = () => ask("stop", () => tell("The server stops. Write something meanwhile, in both windows. " +
		(state.journal ? "The journal keeps the rooms." : "Rooms are in memory, so their history ends with the server. With -journal it does not.")));

	async function ask(what, done, failed) {
		const response = await fetch(`/demo/${what}`, { method: "POST" }).catch(() => undefined);
		if (response?.ok) {
			done(await response.json());
		} else {
			failed?.();
			tell(response?.status === 409 ? "The server is about to stop, or to start." : "The server has not done it.");
		}
	}
}

/** Opens the panels where there is room for them, and closes them on phones. */
export function layPanels(...panels) {
	const wide = matchMedia("(min-width: 48.01rem)");
	const lay = () => panels.forEach((panel) => (panel.open = wide.matches));
	wide.addEventListener("change", lay);
	lay();
	for (const panel of panels) {
		panel.addEventListener("keydown", ({ key }) => {
			if (key === "Escape" && !wide.matches) {
				panel.open = false;
				panel.querySelector("summary").focus();
			}
		});
	}
	addEventListener("pointerdown", ({ target }) => {
		if (!wide.matches) {
			panels.filter((panel) => !panel.contains(target)).forEach((panel) => (panel.open = false));
		}
	});
}
