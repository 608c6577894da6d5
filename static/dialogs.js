// Dialogs: a page comes without them. All of its come together when the first is opened, and stay.
"use strict";

const TOAST_MS = 2_000;           // so long a line stays that says what was done, or why not

function toast(words) {
  if ($("heard")) $("heard").textContent = words;
  const line = element("p", {class: "toast"}, words);
  $("main").append(line);
  setTimeout(() => line.remove(), TOAST_MS);
}

class Dialogs {
  #coming = null;
  #openers = [];

  // Calls `open(root)` for what is in the page now, and once more for the dialogs when they are there.
  whenThere(open) { open(document); this.#openers.push(open); }
  // The dialog of this id; null if it cannot be had, which a line says.
  async get(id) {
    if ($(id)) return $(id);
    this.#coming ??= this.#load();
    try { await this.#coming; } catch { this.#coming = null; toast(`${UNREACHED} Try again in a moment.`); }
    return $(id);
  }
  async show(id) {
    const dialog = await this.get(id);
    if (!dialog || dialog.open) return;
    dialog.showModal();
    dialog.querySelector("input:not([type=hidden])")?.select();
  }
  // The function that does an act on a message by a dialog. `open(dialog)` sets it up once and gives what shows it.
  act(id, open) {
    let show = null;
    return async message => {
      const dialog = await this.get(id);
      if (dialog && !dialog.open) (show ??= open(dialog))(message);
    };
  }

  async #load() {
    const answer = await fetch($("shell").dataset.dialogs, {headers: {"HX-Request": "true"}});
    if (answer.status !== 200) throw new Error(answer.status);
    const root = element("div", {id: "dialogs"});
    root.innerHTML = await answer.text();                            // escaped by the same templates as every page
    $("shell").append(root);
    htmx.process(root);
    for (const open of this.#openers) open(root);
  }
}
const dialogs = new Dialogs();

// A link to a dialog opens it; without this script its address does, on a page of its own.
document.addEventListener("click", event => {
  const opener = event.target.closest("[data-dialog]");
  if (opener) {
    event.preventDefault();
    opener.closest("details.more")?.removeAttribute("open");
    dialogs.show(opener.dataset.dialog);
    return;
  }
  if (event.target.closest("[data-close]") || event.target.tagName === "DIALOG") event.target.closest("dialog")?.close();
  for (const more of document.querySelectorAll("details.more[open]"))
    if (!more.contains(event.target)) more.open = false;
});
document.addEventListener("keydown", event => {
  const more = event.key === "Escape" && document.querySelector("details.more[open]");
  if (more) { more.open = false; more.querySelector("summary").focus(); }
});

// A quiet form stays on its page: the socket shows what it did.
function openQuiet(form) {
  const failure = form.querySelector(".error");
  form.addEventListener("htmx:after:request", event => {
    const ctx = event.detail.ctx, status = ctx.response?.status ?? ctx.response?.raw?.status;
    failure.hidden = status < 400;
    if (status < 400) form.closest("dialog")?.close();
    else failure.textContent = isSentence(ctx.text) ? ctx.text : "That was not saved. Try again.";
  });
  form.addEventListener("htmx:error", () => {
    failure.textContent = `${UNREACHED} Try again in a moment.`;
    failure.hidden = false;
  });
}
dialogs.whenThere(root => { for (const form of root.querySelectorAll("form[data-quiet]")) openQuiet(form); });
