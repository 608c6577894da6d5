// Presence: dots beside people who are here, names of those who type, and words that tell the server of this reader.
"use strict";

const TYPING_MS = 3_000;          // while one types the server hears of it this often
const SIGHT_MS = 3_000;           // a page that changes its tab back and forth says where it has come to rest
const TYPING_KEPT_MS = 10_000;    // the server says when somebody stops; if it was lost, the words go after this

// People who are here have a dot wherever this page shows them: in the sidebar, and in lists of people.
function markHere() {
  const here = new Set($("online").dataset.mems.split(" "));
  for (const one of document.querySelectorAll(".person[data-mem], .private [data-mem]")) {
    const isHere = here.has(one.dataset.mem), link = one.closest("a") ?? one;
    if (one.classList.contains("here") === isHere) continue;
    one.classList.toggle("here", isHere);
    if (isHere) link.title = "Online"; else link.removeAttribute("title");
  }
}

const listed = new Intl.ListFormat("en", {type: "conjunction"});
function typingWords(names) {
  if (names.length > 3) return "Several people are typing…";
  return names.length ? `${listed.format(names)} ${names.length === 1 ? "is" : "are"} typing…` : "";
}

// The server says it once for all in a channel, and the reader's own name is left out here. A person who has just
// said something has stopped.
function showTyping(words, list) {
  const quiet = new Set();
  let timer = null, mark = null;
  function show() {
    const told = $("typing"), isNew = told.dataset.mark !== mark;
    if (isNew) {
      quiet.clear();
      clearTimeout(timer);
      mark = told.dataset.mark;
      timer = setTimeout(forget, TYPING_KEPT_MS);
    }
    const isShown = ({dataset: {mem}}) => mem !== list.dataset.mem && !quiet.has(mem);
    const others = [...told.children].filter(isShown);
    const text = $("online").dataset.sees === "1" ? typingWords(others.map(one => one.textContent)) : "";
    if (words.textContent !== text) words.textContent = text;
  }
  function forget() { for (const one of $("typing").children) quiet.add(one.dataset.mem); show(); }
  new MutationObserver(changes => {
    const said = changes.flatMap(change => [...change.addedNodes]).filter(one => one.dataset?.mem);
    for (const one of said) quiet.add(one.dataset.mem);
    if (said.length) show();
  }).observe(list, {childList: true});
  return show;
}

// The words that this page sends by its socket: its reader types, and the page comes into sight or goes.
class Voice {
  #connection = null;
  #typedAt = 0;
  #timer = null;
  #isAway = false;

  connecting(connection) {
    this.#connection = connection;
    connection.url += `&here=${$("online").dataset.mark}-${$("typing").dataset.mark}`;
  }
  connected() { this.#isAway = false; this.#look(); }
  type(text) {
    if (!text.trim() || text.startsWith("/") || $("online").dataset.sends !== "1") return;
    if (Date.now() - this.#typedAt < TYPING_MS) return;
    this.#typedAt = Date.now();
    this.#say("typing");
  }
  sent() { this.#typedAt = 0; }
  sight() { clearTimeout(this.#timer); this.#timer = setTimeout(() => this.#look(), SIGHT_MS); }

  #look() {
    const isAway = document.visibilityState === "hidden";
    if (isAway !== this.#isAway && this.#say(isAway ? "away" : "here")) this.#isAway = isAway;
  }
  #say(word) {
    const socket = this.#connection?.socket, isOpen = socket?.readyState === WebSocket.OPEN;
    if (isOpen) socket.send(word);
    return isOpen;
  }
}

function openPresence() {
  const voice = new Voice(), words = $("typing-words"), list = $("messages");
  const show = words && list ? showTyping(words, list) : () => {};
  const showAll = () => { markHere(); show(); };
  document.addEventListener("htmx:ws:before:connection", ({detail}) => voice.connecting(detail.connection));
  document.addEventListener("htmx:ws:after:connection", () => voice.connected());
  document.addEventListener("visibilitychange", () => voice.sight());
  document.addEventListener("htmx:after:swap", showAll);
  const lists = [$("shell"), ...document.querySelectorAll(".private, .people")];
  for (const one of lists) new MutationObserver(showAll).observe(one, {childList: true});
  $("text")?.addEventListener("input", () => voice.type($("text").value));
  $("compose")?.addEventListener("submit", () => voice.sent());
  showAll();
}

if ($("online")) openPresence();
