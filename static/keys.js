// The keyboard: Ctrl+K goes anywhere, Alt and the arrows go through the channels, single letters act outside of text.
"use strict";

const SHOWN_MAX = 50;             // places that the list shows; more letters find the rest

// Letters are for those who want them: speech input and stray hands press them, too.
const letters = {
  get areOn() { return localStorage.getItem("letters") !== "off"; },
  set areOn(on) { if (on) localStorage.removeItem("letters"); else localStorage.setItem("letters", "off"); },
};

const inText = node => node.closest?.("input, textarea, select, [contenteditable]") ?? false;
const isBusy = () => document.querySelector("dialog[open]") !== null;
const fold = text => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();

// ── Going anywhere ───────────────────────────────────────────────────────────────────────────────────────────

class Places {
  #options = [];
  #at = 0;

  constructor(dialog) {
    Object.assign(this, {dialog, box: $("go-text"), list: $("go-list"), none: $("go-none")});
    this.box.addEventListener("input", () => this.#show());
    this.box.addEventListener("keydown", event => this.#keyed(event));
    dialog.querySelector("form").addEventListener("submit", event => { event.preventDefault(); this.#go(); });
  }
  async open() {
    this.box.value = "";
    this.list.replaceChildren();
    this.none.textContent = "";
    this.dialog.showModal();
    const answer = await fetch("/places", {headers: {"HX-Request": "true"}}).catch(() => null);
    if (!answer?.ok) { this.none.textContent = "The places cannot be listed now. Try again in a moment."; return; }
    const made = element("ul", {});
    made.innerHTML = await answer.text();                            // escaped by the same templates as every page
    this.#options = [...made.children];
    this.#options.forEach((option, n) => { option.firstElementChild.id = `place-${n}`; });
    this.#show();
  }
  // Those that begin with what was typed come first, then those with a word that does, then those that hold it.
  #rank(option, sought) {
    const name = fold(option.querySelector("span").textContent), at = name.indexOf(sought);
    return at < 0 ? fold(option.textContent).includes(sought) ? 3 : 4 : at === 0 ? 0 : name[at - 1] === " " ? 1 : 2;
  }
  #show() {
    const sought = fold(this.box.value.trim()), ranks = new Map();
    for (const option of this.#options) ranks.set(option, sought ? this.#rank(option, sought) : 0);
    const found = this.#options.filter(option => ranks.get(option) < 4).sort((a, b) => ranks.get(a) - ranks.get(b));
    this.list.replaceChildren(...found.slice(0, SHOWN_MAX));
    this.none.textContent = found.length ? "" : "Nothing is called so.";
    this.#choose(0);
  }
  #choose(at) {
    const options = [...this.list.querySelectorAll("[role=option]")];
    this.#at = options.length ? (at + options.length) % options.length : 0;
    options.forEach((option, n) => option.setAttribute("aria-selected", String(n === this.#at)));
    const chosen = options[this.#at];
    if (chosen) this.box.setAttribute("aria-activedescendant", chosen.id);
    else this.box.removeAttribute("aria-activedescendant");
    chosen?.scrollIntoView({block: "nearest"});
  }
  #keyed(event) {
    const step = {ArrowUp: -1, ArrowDown: 1}[event.key];
    if (!step || event.isComposing) return;
    event.preventDefault();
    this.#choose(this.#at + step);
  }
  #go() {
    const link = this.list.children[this.#at]?.querySelector("a");
    if (link) location.assign(link.href);
  }
}

// ── Through the channels ─────────────────────────────────────────────────────────────────────────────────────

function goBy(step, isUnread) {
  const links = [...document.querySelectorAll(".side-lists li a")];
  const here = links.findIndex(link => link.pathname === HERE);
  const wanted = link => link.pathname !== HERE && (!isUnread || link.dataset.unread);
  const order = step > 0 ? [...links.slice(here + 1), ...links.slice(0, here + 1)]
    : [...links.slice(0, Math.max(here, 0)).reverse(), ...links.slice(Math.max(here, 0)).reverse()];
  const next = order.find(wanted);
  if (next) location.assign(next.href);
}

// ── Single letters ───────────────────────────────────────────────────────────────────────────────────────────

function press(list, key) {
  list.focus();
  list.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
}

function act(name) {
  const button = document.querySelector(`#actions:not([hidden]) [data-act=${name}]:not([hidden])`);
  button?.click();
  return button !== null;
}

const LETTERS = {
  "?": () => { dialogs.show("keys"); return true; },
  c: () => { $("text")?.focus(); return $("text") !== null; },
  s: () => { $("search")?.focus(); return $("search") !== null; },
  j: () => { press($("messages"), "ArrowDown"); return true; },
  k: () => { press($("messages"), "ArrowUp"); return true; },
  r: () => act("reply"),
  e: () => act("react"),
};
const OF_MESSAGES = "jkre";

if ($("go")) {
  const places = new Places($("go"));
  dialogs.whenThere(root => {
    const on = root.querySelector("#letters-on");
    if (!on) return;
    on.checked = letters.areOn;
    on.addEventListener("change", () => { letters.areOn = on.checked; });
  });
  document.addEventListener("keydown", event => {
    if (event.isComposing || isBusy()) return;
    const key = event.key.toLowerCase(), step = {arrowup: -1, arrowdown: 1}[key];
    const isControl = event.ctrlKey || event.metaKey, isPlain = !isControl && !event.altKey;
    if (isControl && !event.altKey && !event.shiftKey && key === "k") {
      event.preventDefault();
      places.open();
    } else if (event.altKey && step && !isControl) {
      event.preventDefault();
      goBy(step, event.shiftKey);
    } else if (isPlain && letters.areOn && !inText(event.target)) {
      const isMissing = OF_MESSAGES.includes(key) && !$("messages");
      if (!isMissing && Object.hasOwn(LETTERS, key) && LETTERS[key]()) event.preventDefault();
    }
  });
}
