// Completion in the boxes that one writes in: names behind an @, emoji behind a colon. A list of options is offered
// while one types; the arrow keys choose, Enter or Tab takes, Escape leaves. The server finds what begins so.
"use strict";

const COMPLETE_AFTER_MS = 120;    // a person who types on is not asked for

// The word that is typed before the cursor: its first letter says where it is sought.
const sources = [
  {begins: /(?:^|[^\p{L}\p{N}_:])(:[a-z0-9_+-]{2,40})$/iu, wordsMax: 1, path: () => "/emoji"},
  {begins: /(?:^|[^\p{L}\p{N}_@/.:])(@[^\n@]{0,60})$/u, wordsMax: 4, path: () => `${HERE}/names`},
];

class Completion {
  #at = -1;                       // the option that is chosen
  #asked = 0;                     // only the answer to the last question counts
  #timer = null;
  #left = null;                   // what was taken, or left with Escape, is offered no more

  constructor(box) {
    this.box = box;
    const id = `${box.id}-options`, label = "Completions";
    this.list = element("ul", {class: "options", id, role: "listbox", "aria-label": label, hidden: ""});
    box.form.append(this.list);
    box.setAttribute("aria-autocomplete", "list");                   // a box of several lines cannot be a combobox
    box.setAttribute("aria-haspopup", "listbox");
    box.setAttribute("aria-controls", id);
    box.addEventListener("input", () => this.#typed());
    box.form.addEventListener("keydown", event => { if (event.target === box) this.#keyed(event); }, {capture: true});
    box.addEventListener("blur", () => this.close());
    this.list.addEventListener("mousedown", event => {               // the focus stays in the box
      event.preventDefault();
      const option = event.target.closest("[role=option]");
      if (option) this.#take(option);
    });
  }
  close() {
    clearTimeout(this.#timer);
    this.#asked += 1;
    this.list.hidden = true;
    this.#choose(-1);
  }
  get #options() { return [...this.list.children]; }

  // The source, and what is typed for it before the cursor; null for nothing.
  #sought() {
    const {value, selectionStart, selectionEnd} = this.box;
    if (selectionStart !== selectionEnd) return null;
    for (const source of sources) {
      const typed = value.slice(Math.max(0, selectionStart - 80), selectionStart).match(source.begins)?.[1];
      if (typed !== undefined && typed.split(" ").length <= source.wordsMax) return {source, typed};
    }
    return null;
  }
  #typed() {
    clearTimeout(this.#timer);
    const sought = this.#sought();
    if (!sought || this.#left !== null && sought.typed.startsWith(this.#left)) {
      if (!sought) this.#left = null;
      return this.close();
    }
    this.#left = null;
    this.#timer = setTimeout(() => this.#ask(sought), COMPLETE_AFTER_MS);
  }
  async #ask({source, typed}) {
    const asked = this.#asked += 1, query = new URLSearchParams({q: typed.slice(1)});
    const answer = await fetch(`${source.path()}?${query}`, {headers: {"HX-Request": "true"}}).catch(() => null);
    const html = answer?.status === 200 && !answer.redirected ? await answer.text() : "";
    if (asked !== this.#asked || this.#sought()?.typed !== typed) return;
    this.list.innerHTML = html;                                      // escaped by the same templates as every page
    if (!this.#options.length) return this.close();
    this.#options.forEach((option, n) => { option.id = `${this.list.id}-${n}`; });
    this.list.hidden = false;
    this.#choose(0);
  }
  #choose(at) {
    this.#at = at;
    this.#options.forEach((option, n) => option.setAttribute("aria-selected", n === at));
    if (at < 0) return this.box.removeAttribute("aria-activedescendant");
    this.box.setAttribute("aria-activedescendant", this.#options[at].id);
    this.#options[at].scrollIntoView({block: "nearest"});
  }
  #keyed(event) {
    if (this.list.hidden || event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = {ArrowUp: -1, ArrowDown: 1}[event.key], options = this.#options;
    if (step) this.#choose((this.#at + step + options.length) % options.length);
    else if (event.key === "Escape") { this.#left = this.#sought()?.typed ?? null; this.close(); }
    else if ((event.key === "Enter" || event.key === "Tab") && !event.shiftKey) this.#take(options[this.#at]);
    else return;
    event.preventDefault();
    event.stopImmediatePropagation();                                // Enter sends nothing, Escape leaves no editor
  }
  #take(option) {
    const sought = this.#sought();
    this.close();
    if (!sought) return;
    const end = this.box.selectionStart;
    this.box.setRangeText(option.dataset.typed, end - sought.typed.length, end, "end");
    this.#left = option.dataset.typed;
    this.box.dispatchEvent(new Event("input", {bubbles: true}));
  }
}

for (const id of ["text", "edit-text"]) if ($(id)?.form) new Completion($(id));
