// The box that one writes in, and the messages on their way at the end of the list.
"use strict";

const SLOW_MS = 2_000;            // then a pending message says that it is being sent

// While htmx swaps a list, a stored message has the class of the pending one in whose place it comes, for a moment.
const isPending = message => message.querySelector(":scope > .fate") !== null;
const textOf = message => message.querySelector(":scope > .text, :scope > p");      // the element with what was said

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// The messages on their way stand at the end of the list, in the order of writing, each under the id that it will have.
class Pending {
  constructor(list, outbox) {
    Object.assign(this, {list, outbox, path: HERE});
    setInterval(() => { if (this.#posts().some(post => post.state === "waiting")) this.show(); }, SLOW_MS);
  }
  show() {
    this.#forgetDone();
    const posts = this.#posts(), ids = new Set(posts.map(post => `message-${post.id}`));
    for (const message of this.list.querySelectorAll(".message:has(> .fate)"))
      if (!ids.has(message.id)) message.remove();
    const messages = posts.map(post => this.#shown(post) ?? this.#made(post));
    posts.forEach((post, n) => this.#tell(messages[n], post));
    this.#place(messages);
    this.#showFailure(posts);
  }

  #posts() { return this.outbox.of(this.path); }
  #all(post) { return [...this.list.querySelectorAll(`#message-${CSS.escape(post.id)}`)]; }
  #shown(post) { return this.#all(post).find(isPending); }
  #forgetDone() {
    const cursor = Number($("cursor").value);
    const isThere = post => this.#all(post).some(message => !isPending(message));
    const isHeard = post => post.state === "stored" && post.tx <= cursor;
    this.outbox.forget(post => post.path === this.path && (isThere(post) || isHeard(post)));
  }
  #made(post) {
    const {mem, name, initials} = this.list.dataset;
    const face = element("i", {class: `face hue-${mem[0]}`, "aria-hidden": "true"}, initials);
    const author = element("b", {dir: "auto"}, name), time = element("time", {datetime: post.at});
    const text = element("p", {dir: "auto"}, post.text);
    const carried = riders.filter(({name}) => post.beside?.[name]);
    const shown = carried.map(one => one.shown(post.beside[one.name], post.path));
    return element("article", {class: "message mine pending", id: `message-${post.id}`, "data-mem": mem, "hx-ignore": ""},
                   element("header", {}, face, author, " ", time), text, ...shown,
                   element("div", {class: "fate"}));
  }
  // Says below a post's text what becomes of it. It is written anew only when it changes: it may have the focus.
  #tell(message, post) {
    const isSlow = Date.now() - Date.parse(post.at) > SLOW_MS;
    const waiting = post.why || (isSlow ? "Sending …" : "");
    const word = {failed: `Not sent. ${post.why}`, stored: "", waiting}[post.state].trim();
    const told = `${post.state} ${post.isHeld} ${word}`;
    if (message.dataset.fate === told) return;
    message.dataset.fate = told;
    for (const state of ["failed", "stored"]) message.classList.toggle(state, post.state === state);
    const buttons = [];
    if (post.state === "failed") buttons.push(this.#button("Retry", () => this.outbox.retry(post)));
    if (post.state === "failed" || post.isHeld) buttons.push(this.#button("Delete", () => this.outbox.remove(post)));
    message.querySelector(".fate").replaceChildren(element("span", {}, word), ...buttons);
  }
  #button(name, act) {
    const made = element("button", {type: "button", class: "link"}, name);
    made.addEventListener("click", () => { act(); $("text")?.focus(); });
    return made;
  }
  // Real messages go before the first pending one; a pending one stays where it is, because it may have the focus.
  #place(messages) {
    messages.forEach((message, n) => {
      const before = messages[n - 1];
      if (!message.isConnected) this.list.append(message);
      else if (before && message.previousElementSibling !== before) before.after(message);
    });
    const last = messages.at(-1);
    while (last?.nextElementSibling) messages[0].before(last.nextElementSibling);
  }
  // The sentence above the box is read aloud. One about the text in the box itself is left alone.
  #showFailure(posts) {
    const failure = $("failure"), failed = posts.filter(post => post.state === "failed");
    const why = (failed[0] ?? posts.find(post => post.state === "waiting" && post.why))?.why;
    if (failure.dataset.of === "box") return;
    const what = ["", "Not sent. "][failed.length] ?? `${failed.length} messages were not sent. `;
    if (why && failure.textContent !== what + why) failure.textContent = what + why;
    failure.hidden = !why;
  }
}

// Marks the channels in the list in which a message was not sent: it may have been written on another page.
function markUnsent(outbox) {
  for (const link of $("channels")?.querySelectorAll("a") ?? [])
    link.classList.toggle("unsent", outbox.of(link.pathname).some(post => post.state === "failed"));
}

// The draft is kept as it is typed, and is the same in all tabs; Enter sends. A text that is too long stays whole in
// the box, and a line says so.
class Box {
  #isTouch = matchMedia("(pointer: coarse)").matches;

  constructor(form, outbox) {
    Object.assign(this, {form, outbox, box: $("text"), path: HERE});
    this.charsMax = this.box.maxLength;
    this.box.removeAttribute("maxlength");                 // browsers cut there in silence
    this.box.value ||= kept.draft(this.path);
    kept.watchDraft(this.path, text => { this.box.value = text; this.#changed(); });
    this.box.addEventListener("input", () => this.#changed());
    this.box.addEventListener("keydown", event => this.#keyed(event));
    form.addEventListener("submit", event => this.#submit(event));
    // the focus, and a phone's keyboard, stay in the box
    form.querySelector("button:not([type=button])").addEventListener("mousedown", event => event.preventDefault());
    addEventListener("resize", () => this.#fit());
    this.#changed();
    if (!this.#isTouch) this.box.focus();
  }
  #keyed(event) {
    if (event.key !== "Enter" || event.isComposing || event.keyCode === 229) return;
    if (!event.ctrlKey && !event.metaKey && (event.shiftKey || this.#isTouch)) return;
    event.preventDefault();
    this.form.requestSubmit();
  }
  #submit(event) {
    event.preventDefault();
    const text = this.box.value.trim();
    this.box.focus();
    if (this.#isTooLong() || riders.some(one => one.isWaiting())) return;
    const carried = riders.map(one => [one.name, one.take()]).filter(([, what]) => what);
    this.box.value = "";
    this.#changed();
    if (text || carried.length) this.outbox.add(this.path, text, Object.fromEntries(carried));
  }
  #changed() {
    this.#fit();
    kept.keepDraft(this.path, this.box.value);
    this.#isTooLong();
  }
  #fit() {
    this.box.style.removeProperty("height");
    this.box.style.height = `${Math.min(this.box.scrollHeight + 2, innerHeight / 3)}px`;
  }
  // Counts characters as the server does, not as strings do here, and says so beside the box.
  #isTooLong() {
    const text = this.box.value.trim(), failure = $("failure");
    const chars = text.length > this.charsMax ? [...text].length : text.length, surplus = chars - this.charsMax;
    const count = number => number.toLocaleString("en");
    if (surplus > 0) {
      failure.textContent = `A message has at most ${count(this.charsMax)} characters; this one has ${count(chars)}. `
        + `Nothing was cut: shorten it by ${count(surplus)}, or send it in parts.`;
      failure.dataset.of = "box";
      failure.hidden = false;
    } else if (failure.dataset.of === "box") {
      delete failure.dataset.of;
      failure.hidden = true;
    }
    return surplus > 0;
  }
}
