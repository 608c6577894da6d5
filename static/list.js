// The list of messages: their times and groups, older ones and new ones, and what is copied of them.
"use strict";

const NEAR_PX = 100;              // of the end: still reading the newest
const LINE_PX = 60;               // above the first unread message: the "New" line, and what was said before
const TOGETHER_MS = 300_000;      // messages of one person within five minutes stand together

// The acts of the buttons of a message, by name: f(message). Other files add theirs.
const messageActs = {};

// ── Times ────────────────────────────────────────────────────────────────────────────────────────────────────

// Times are sent in UTC and told in the reader's own; the year stands where it is not this one.
const format = options => new Intl.DateTimeFormat(undefined, options);
const CLOCK = {hour: "2-digit", minute: "2-digit"}, DAY = {day: "numeric", month: "short"}, YEAR = {year: "numeric"};
const WEEKDAY = {weekday: "long", day: "numeric", month: "long"};
const clock = format(CLOCK), calendar = format({...DAY, ...CLOCK}), oldCalendar = format({...DAY, ...YEAR, ...CLOCK});
const dateOnly = format({...DAY, ...YEAR}), dayName = format(WEEKDAY), oldDayName = format({...WEEKDAY, ...YEAR});
const inFull = format({dateStyle: "full", timeStyle: "medium"});

// Without "PM": there is no room for it beside a line.
function shortClock(at) {
  const parts = clock.formatToParts(at).filter(part => part.type !== "dayPeriod");
  return parts.map(part => part.value).join("").trim();
}

function tellTimes(root) {
  const now = new Date(), isThisYear = at => at.getFullYear() === now.getFullYear();
  for (const time of root.querySelectorAll("time[datetime]:not([data-told])")) {
    const at = new Date(time.dateTime), isToday = at.toDateString() === now.toDateString();
    const told = "date" in time.dataset ? dateOnly : isToday ? clock : isThisYear(at) ? calendar : oldCalendar;
    time.textContent = told.format(at);
    time.title = inFull.format(at);
    time.dataset.clock = shortClock(at);                   // what a line that follows shows on hover
    time.dataset.told = "";
  }
}

const timeOf = message => new Date(message.querySelector("time").dateTime);

function groupMessages(list) {
  let mem = null, at = new Date(0);
  const year = new Date().getFullYear();
  for (const message of list.querySelectorAll(".message")) {
    const next = timeOf(message), isSameDay = next.toDateString() === at.toDateString();
    const follows = isSameDay && message.dataset.mem === mem && next - at < TOGETHER_MS;
    message.classList.toggle("follows", follows);
    message.classList.toggle("mine", message.dataset.mem === list.dataset.mem);
    if (isSameDay) delete message.dataset.day;
    else message.dataset.day = (next.getFullYear() === year ? dayName : oldDayName).format(next);
    mem = message.dataset.mem;
    at = next;
  }
}

// ── Older and newer ──────────────────────────────────────────────────────────────────────────────────────────

// A fragment that comes again, because a connection ended while it was being shown, adds nothing twice. One's own
// message takes the place of the pending one.
function addOnce(outbox) {
  document.addEventListener("htmx:before:swap", event => {
    const added = (event.detail.tasks ?? []).filter(task => task.type === "oob" && task.swapSpec.style === "beforeend");
    for (const message of added.flatMap(task => [...task.fragment.querySelectorAll(".message[id]")])) {
      const shown = $(message.id), isDeleted = outbox.isDeleted(message.id.slice("message-".length));
      if (isDeleted || shown && !isPending(shown)) message.remove();
      else shown?.remove();
    }
  });
}

// A message's text, and its files.
const partsOf = message => [textOf(message), message.querySelector(":scope > .files")].filter(Boolean);
const topOf = element => element.getBoundingClientRect().top;

// The first text in sight, and where it stands: it is put back there when something above it, or the width of the
// window, has changed. In the middle of a text, it is the share of it that is out of sight.
class Anchor {
  #id = null;
  #part = 0;
  #offset = 0;
  #share = 0;

  constructor(list) { this.list = list; }
  remember() {
    const texts = [...this.list.querySelectorAll(".message")].flatMap(partsOf), top = topOf(this.list);
    const text = texts.find(one => one.getBoundingClientRect().bottom > top);
    this.#id = text?.closest(".message").id ?? null;
    if (!text) return;
    this.#part = partsOf(text.closest(".message")).indexOf(text);
    this.#offset = topOf(text) - top;
    this.#share = this.#offset / text.offsetHeight;
  }
  restore() {
    const message = this.#id && $(this.#id), text = message && partsOf(message)[this.#part];
    if (!text) return;
    const offset = this.#offset < 0 ? this.#share * text.offsetHeight : this.#offset;
    this.list.scrollTop += topOf(text) - topOf(this.list) - offset;
  }
}

// The list follows new messages only for a reader who is at its end; others are told how many there are. `settle()`
// puts the pending messages in their place first.
class List {
  #isAtEnd = true;
  #unread = 0;

  constructor(list, settle) {
    Object.assign(this, {list, settle, pill: $("pill"), anchor: new Anchor(list)});
    list.addEventListener("scroll", () => this.#scrolled(), {passive: true});
    list.addEventListener("htmx:after:swap", () => this.#tidy());      // a morph changes texts in place
    this.pill.addEventListener("click", () => { this.#toEnd(); $("text")?.focus(); });
    $("compose").addEventListener("submit", () => this.#toEnd());
    new MutationObserver(changes => this.#changed(changes)).observe(list, {childList: true, subtree: true});
    new ResizeObserver(() => this.#isAtEnd ? this.#toEnd() : this.anchor.restore()).observe(list);
    this.#tidy();
    if (!this.#toSought()) this.#toEnd();
  }
  // A permalink opens at its message, and a channel at the first unread one.
  #toSought() {
    const first = !location.hash && $(`message-${this.list.dataset.new}`);
    if (first) {
      this.list.scrollTop += topOf(first) - topOf(this.list) - LINE_PX;
      this.#scrolled();
      return true;
    }
    const sought = $(this.list.dataset.sought ?? location.hash.slice(1));
    if (!sought?.matches(".message")) return false;
    sought.classList.add("sought");
    sought.scrollIntoView({block: "center"});
    this.#scrolled();
    return true;
  }
  #tidy() {
    this.settle();
    tellTimes(this.list);
    groupMessages(this.list);
  }
  #toEnd() {
    this.list.scrollTop = this.list.scrollHeight;
    this.#isAtEnd = true;
    this.#seen();
  }
  #seen() {
    this.#unread = 0;
    this.pill.hidden = true;
  }
  #scrolled() {
    const below = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight;
    this.#isAtEnd = below < NEAR_PX && !$("newer");
    if (this.#isAtEnd) this.#seen();
    this.anchor.remember();
  }
  #changed(changes) {
    this.#tidy();
    const isMessage = node => node.classList?.contains("message") && !isPending(node);
    const added = new Set(changes.flatMap(change => [...change.addedNodes]).filter(isMessage));
    const messages = [...this.list.querySelectorAll(".message:not(.pending)")];
    if (added.has(messages.at(-1))) this.#hear(messages.filter(message => added.has(message)));
    if (this.#isAtEnd) this.list.scrollTop = this.list.scrollHeight;
    else this.anchor.restore();                            // older ones came above: what is read stays put
    this.anchor.remember();
  }
  #hear(messages) {
    const others = messages.filter(message => !message.classList.contains("mine")), [one] = others;
    const said = message => [textOf(message).textContent, ...namesOf(message)].filter(Boolean).join(", ");
    const words = message => `${message.querySelector("b").textContent}: ${said(message)}`;
    if (one) $("heard").textContent = others.length === 1 ? words(one) : `${others.length} new messages`;
    if (this.#isAtEnd || !this.list.hasAttribute("hx-ws:connect")) return;      // a page in the past loads them itself
    this.#unread += messages.length;
    this.pill.textContent = this.#unread === 1 ? "1 new message ↓" : `${this.#unread} new messages ↓`;
    this.pill.hidden = false;
  }
}

// The link to older messages is replaced by them. A reader who had gone there by the keyboard stays there.
function keepFocusInOlder(list) {
  let hadFocus = false;
  document.addEventListener("htmx:before:swap", () => {
    hadFocus = $("older")?.contains(document.activeElement) ?? false;
  });
  document.addEventListener("htmx:after:swap", () => {
    const next = $("older")?.querySelector("a") ?? list;
    if (hadFocus && document.activeElement === document.body) next.focus({preventScroll: true});
    hadFocus = false;
  });
}

const namesOf = message =>
  [...message.querySelectorAll(".files img, .files bdi")].map(one => one.alt ?? one.textContent);

// ── Copies ───────────────────────────────────────────────────────────────────────────────────────────────────

// Messages are copied as people would write them down: who, when, what. Of one message's text only the text is.
function copyMessages(list) {
  list.addEventListener("copy", event => {
    if (!getSelection().rangeCount) return;
    const range = getSelection().getRangeAt(0), isCopied = part => range.intersectsNode(part);
    const messages = [...list.querySelectorAll(".message")].filter(message => isCopied(textOf(message)));
    if (messages.length < 2 && !messages.some(message => isCopied(message.querySelector("header")))) return;
    event.clipboardData.setData("text/plain", messages.map(message => copyOf(message, range)).join("\n\n"));
    event.preventDefault();
  });
}

function copyOf(message, range) {
  const part = document.createRange(), text = textOf(message);
  part.selectNodeContents(text);
  if (range.comparePoint(text, 0) < 0) part.setStart(range.startContainer, range.startOffset);
  if (range.comparePoint(text, text.childNodes.length) > 0) part.setEnd(range.endContainer, range.endOffset);
  const lines = [part, ...namesOf(message).map(name => `[${name}]`)].map(String).filter(Boolean);
  return `${message.querySelector("b").textContent}, ${oldCalendar.format(timeOf(message))}\n${lines.join("\n")}`;
}

// Where the browser keeps the clipboard to secure pages, or to pages that may use it, a selection is copied.
async function copyText(text) {
  try { return await navigator.clipboard.writeText(text); } catch { /* the other way */ }
  const box = element("textarea", {class: "unseen", "aria-hidden": "true"}, text);
  document.body.append(box);
  box.select();
  document.execCommand("copy");
  box.remove();
}
