// Replies: the message that is being answered stands above the box, and goes with what is sent. A thread's page shows
// the messages of one thread only, although the socket brings all of the channel.
"use strict";

class Reply {
  #answered = null;

  constructor(bar, thread) {
    Object.assign(this, {bar, thread, key: `reply ${HERE}`});
    bar.querySelector("button").addEventListener("click", () => { this.set(null); $("text").focus(); });
    $("text").addEventListener("keydown", event => {
      if (event.key === "Escape" && this.#answered && !event.isComposing) this.set(null);
    });
    this.set(JSON.parse(sessionStorage.getItem(this.key) ?? "null"));
  }
  to(message) {
    const id = idOf(message), {thread = id} = message.dataset, text = textOf(message)?.textContent ?? "";
    const author = message.querySelector("header b").textContent;
    this.set({id, thread, tx: $("cursor").value, author, text: text.trim().slice(0, 140), mem: message.dataset.mem});
    $("text").focus();
  }
  set(answered) {
    this.#answered = answered;
    this.bar.hidden = !answered;
    $("replying-to").textContent = answered?.author ?? "";
    $("replying-text").textContent = answered?.text ?? "";
    if (answered) sessionStorage.setItem(this.key, JSON.stringify(answered));
    else sessionStorage.removeItem(this.key);
  }
  // On a thread's page everything that is written answers its first message.
  take() {
    const root = this.thread && $(`message-${this.thread}`);
    if (!this.#answered && root) this.to(root);
    const answered = this.#answered;
    this.set(null);
    return answered;
  }
}

function quoteOf({id, author, text, mem}) {
  const link = {class: "quote", href: `#message-${id}`, "data-mem": mem, dir: "auto"};
  return element("a", link, element("b", {}, author), " ", element("span", {}, text));
}

if ($("replying")) {
  const list = $("messages"), reply = new Reply($("replying"), list.dataset.thread);
  riders.push({name: "reply", isWaiting: () => false, take: () => reply.take(), shown: quoteOf,
               fields: ({id, thread, tx}) => ({reply: id, thread, "reply-tx": tx})});
  messageActs.reply = message => reply.to(message);
}

// A quote leads to its message, in this page or in its surroundings.
$("messages")?.addEventListener("click", event => {
  const quote = event.target.closest("a.quote"), id = quote?.hash.slice(1), message = id && $(id);
  if (!quote) return;
  event.preventDefault();
  if (!message) return location.assign(`${HERE}/at/${id.slice("message-".length)}`);
  for (const one of document.querySelectorAll(".sought")) one.classList.remove("sought");
  message.classList.add("sought");
  message.scrollIntoView({block: "center"});
});

// A new title of the channel stands in the title of its threads, too.
function keepThreadTitle() {
  const title = document.title.replace(/^\(\d+\+?\) /, "");
  if (!title.startsWith("Thread in ")) document.title = `Thread in ${title}`;
}

if ($("messages")?.dataset.thread) {
  new MutationObserver(keepThreadTitle).observe(document.querySelector("title"), {childList: true});
  const {thread} = $("messages").dataset, isIn = message => message.dataset.thread === thread;
  document.addEventListener("htmx:before:swap", event => {
    for (const {type, fragment, swapSpec} of event.detail.tasks ?? []) {
      if (type !== "oob" || swapSpec.style !== "beforeend") continue;
      for (const message of fragment.querySelectorAll(".message[id]")) if (!isIn(message)) message.remove();
    }
  });
  // A page that was away for long is sent the newest messages of the channel; then the thread is loaded anew.
  const isAlien = message => message.id !== `message-${thread}` && !isPending(message) && !isIn(message);
  const watcher = new MutationObserver(() => {
    if (!$(`message-${thread}`) || [...$("messages").querySelectorAll(".message")].some(isAlien)) location.reload();
  });
  watcher.observe($("messages"), {childList: true});
}
