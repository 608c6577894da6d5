// Drafts on all of a person's devices: what is written is brought to the server once in a while and when the page goes,
// and what another device wrote is shown here. The newest one counts. A box in which one types is left alone.
"use strict";

const OVERTAKEN_MS = 60_000;      // a draft that was on its way when its text was sent does not come back into the box
const GATHER_MS = 10_000;         // between two times that what is being written goes to the server

class Drafts {
  #timer = 0;
  #sending = null;                // the text on its way
  #refused = null;                // the server will not keep this one; it is kept here

  constructor(box, news) {
    this.box = box;
    kept.draftChanged = () => this.#wait();
    new MutationObserver(() => this.#arrived()).observe(news, {childList: true});
    box.addEventListener("blur", () => this.#arrived());
    addEventListener("blur", () => this.#arrived());
    addEventListener("pagehide", () => this.#bring());
    document.addEventListener("visibilitychange", () => { if (document.hidden) this.#bring(); });
    // before the browser forgets it: this listener is called first
    document.querySelector("form.out")?.addEventListener("submit", () => this.#bring(), true);
    this.#arrived(true);
    this.#wait();
  }
  #isChanged() { return kept.draft(HERE) !== kept.known(HERE).text; }
  #wait() { if (!this.#timer && this.#isChanged()) this.#timer = setTimeout(() => this.#bring(), GATHER_MS); }

  // The server's draft stands in the page, at first and whenever it changes.
  #arrived(isFirst = false) {
    const {at} = $("draft").dataset, text = $("draft").textContent, here = kept.draft(HERE), known = kept.known(HERE);
    if (at <= known.at) return;
    const isMine = text === here || text === this.#sending;
    const age = known.changedAt - Date.parse(at), isJustSent = here === "" && age < OVERTAKEN_MS;
    const isOlder = age > 0 && (here !== known.text || isJustSent);
    if (!isMine && !isOlder) {
      if (!isFirst && document.activeElement === this.box && document.hasFocus()) return;      // until it loses it
      kept.know(HERE, {at, text});
      return kept.bringDraft(HERE, text);
    }
    kept.know(HERE, {at, text});
    this.#wait();
  }
  async #bring() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    const text = kept.draft(HERE);
    if (kept.isOver || !this.#isChanged() || this.#sending !== null || this.#refused === text) return;
    this.#sending = text;
    const token = document.querySelector("[name='__anti-forgery-token']").value;
    const headers = {"HX-Request": "true", "X-CSRF-Token": token}, body = new URLSearchParams({text});
    const keepalive = String(body).length < KEEPALIVE_BYTES_MAX;
    const answer = await fetch(`${HERE}/draft`, {method: "POST", headers, body, keepalive}).catch(() => null);
    const at = answer?.headers.get("X-Draft-At");
    if (at && at > kept.known(HERE).at) kept.know(HERE, {at, text});
    this.#refused = answer?.status === 422 ? text : null;
    this.#sending = null;
    this.#wait();
  }
}

if ($("draft-news") && $("text")) new Drafts($("text"), $("draft-news"));
