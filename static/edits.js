// The acts on a message: a toolbar beside the one under the pointer, the finger or the keyboard; editing; deleting.
"use strict";

const PENDING = ".pending";

// `act(name, message)` does what the button says. One toolbar serves all messages, so the list stays as it was sent.
function openActions(list, act) {
  const bar = $("actions"), isAdmin = bar.dataset.admin === "1", mayReadVersions = bar.dataset.versions === "1";
  let at = null;
  const buttons = [...bar.querySelectorAll("button")];
  const isFor = (button, message) => {
    const isMine = message.classList.contains("mine"), wanted = (button.dataset.for ?? "").split(" ");
    const mayRead = isMine || mayReadVersions, {needs} = button.dataset;
    if (needs && !message.querySelector(needs)) return false;
    if (button.dataset.for === "versions") return mayRead;
    if (button.dataset.for === "others") return !isMine && !message.classList.contains("system");
    return !button.dataset.for || isMine && wanted.includes("mine") || isAdmin && wanted.includes("admin");
  };
  // The list moves by itself, too, when something is said or an answer comes: the toolbar stays with its message.
  function place() {
    if (!at) return;
    const {top, bottom} = at.getBoundingClientRect(), sight = list.getBoundingClientRect();
    const isSeen = bottom > sight.top && top < sight.bottom, hasFocus = bar.contains(document.activeElement);
    if (!at.isConnected || !isSeen && !hasFocus) return hide();
    at.classList.add("picked");                                      // a morph takes it away
    bar.style.top = `${Math.max(top, sight.top) - topOf(bar.offsetParent) - 6}px`;
  }
  function show(message) {
    if (!message || message.matches(PENDING)) return hide();
    for (const button of buttons) button.hidden = !isFor(button, message);
    if (!buttons.some(button => !button.hidden)) return hide();
    at?.classList.remove("picked");
    at = message;
    bar.hidden = false;
    place();
  }
  function hide() {
    at?.classList.remove("picked");
    at = null;
    bar.hidden = true;
  }
  const messageOf = node => node.closest?.(".message");
  // A page that moves under a pointer at rest makes browsers say that the pointer is over something else, or has left.
  let rest = "";
  const placeOf = event => `${event.screenX} ${event.screenY}`;
  list.parentElement.addEventListener("pointermove", event => {
    rest = placeOf(event);
    const message = messageOf(event.target);
    if (event.pointerType === "mouse" && message && message !== at) show(message);
  });
  list.parentElement.addEventListener("pointerleave", event => {
    if (placeOf(event) !== rest && !bar.contains(document.activeElement)) hide();
  });
  list.addEventListener("click", event => { if (!event.target.closest("a, button")) show(messageOf(event.target)); });
  list.addEventListener("scroll", place, {passive: true});
  function step(by) {
    const messages = [...list.querySelectorAll(`.message:not(${PENDING})`)];
    const next = at ? messages[messages.indexOf(at) + by] : messages.at(-1);
    if (!next) return false;
    next.scrollIntoView({block: "nearest"});
    show(next);
    return true;
  }
  list.addEventListener("keydown", event => {
    const by = {ArrowUp: -1, ArrowDown: 1}[event.key];
    if (by && event.target === list) { if (step(by)) event.preventDefault(); }
    else if (event.key === "Enter" && event.target === list && at) {
      event.preventDefault();
      buttons.find(button => !button.hidden).focus();
    } else if (event.key === "Escape") hide();
  });
  bar.addEventListener("keydown", event => {
    const shown = buttons.filter(button => !button.hidden), step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (step) shown[(shown.indexOf(document.activeElement) + step + shown.length) % shown.length].focus();
    if (event.key === "Escape") { list.focus(); hide(); }
  });
  bar.addEventListener("click", event => {
    const button = event.target.closest("[data-act]");
    if (button && at?.isConnected) { const message = at; hide(); act(button.dataset.act, message); }
  });
  new MutationObserver(place).observe(list, {childList: true, subtree: true});
}

const idOf = message => message.id.slice("message-".length);
const pathOf = message => `${HERE}/message/${idOf(message)}`;

// Resolves to "" if the server has done it, else to a sentence that says why not.
async function ask(method, path, fields = {}) {
  const headers = {"X-CSRF-Token": document.querySelector("[name='__anti-forgery-token']").value, "HX-Request": "true"};
  try {
    const answer = await fetch(path, {method, headers, body: new URLSearchParams(fields)}), text = await answer.text();
    if (answer.ok) return "";
    return text.length < 400 && !text.includes("<") && text ? text : "That was not done. Try again.";
  } catch { return "The server cannot be reached. Try again in a moment."; }
}

function openEditor(list, compose) {
  const form = $("edit"), box = $("edit-text"), failure = form.querySelector(".error");
  let message = null;
  function fit() {
    box.style.removeProperty("height");
    box.style.height = `${Math.min(box.scrollHeight + 2, innerHeight / 3)}px`;
  }
  const say = why => { failure.textContent = why; failure.hidden = !why; };
  function close() {
    message?.classList.remove("changing");
    message = null;
    form.hidden = true;
    compose.hidden = false;
    $("text").focus();
  }
  async function open(one) {
    const answer = await fetch(pathOf(one)).catch(() => null);
    if (!answer?.ok) return;
    message?.classList.remove("changing");
    message = one;
    box.value = await answer.text();
    message.classList.add("changing");
    box.required = !message.querySelector(".files");
    say("");
    compose.hidden = true;
    form.hidden = false;
    fit();
    box.focus();
    box.setSelectionRange(box.value.length, box.value.length);
  }
  async function save() {
    const isMessage = box.value.trim() || message.querySelector(".files");
    const why = isMessage ? await ask("POST", pathOf(message), {text: box.value})
      : "An empty message is none. Delete it instead.";
    if (why) say(why);
    else close();
  }
  box.addEventListener("input", fit);
  box.addEventListener("keydown", event => {
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key === "Escape") { event.preventDefault(); close(); }
    const isTouch = matchMedia("(pointer: coarse)").matches;
    const sends = event.ctrlKey || event.metaKey || !event.shiftKey && !isTouch;
    if (event.key === "Enter" && sends) { event.preventDefault(); form.requestSubmit(); }
  });
  form.addEventListener("submit", event => { event.preventDefault(); save(); });
  form.querySelector("[data-leave]").addEventListener("click", close);
  $("text").addEventListener("keydown", event => {
    if (event.key !== "ArrowUp" || event.target.value || event.isComposing) return;
    const mine = [...list.querySelectorAll(".message.mine:not(.pending)")].at(-1);
    if (mine) { event.preventDefault(); open(mine); }
  });
  return open;
}

function openDeletion(dialog) {
  const failure = dialog.querySelector(".error");
  let message = null;
  dialog.querySelector("form").addEventListener("submit", async event => {
    if (event.submitter?.value !== "delete") return;
    event.preventDefault();
    const why = await ask("DELETE", pathOf(message));
    failure.textContent = why; failure.hidden = !why;
    if (!why) dialog.close();
  });
  dialog.addEventListener("close", () => $("text")?.focus());
  return one => {
    message = one;
    const shown = [textOf(one).textContent.slice(0, 300), ...namesOf(one)];
    $("delete-message-text").textContent = shown.filter(Boolean).join("\n");
    failure.hidden = true;
    dialog.returnValue = "";
    dialog.showModal();
  };
}

async function showVersions(message) {
  if (!await dialogs.get("versions")) return;
  const answer = await fetch(`${pathOf(message)}/versions`, {headers: {"HX-Request": "true"}}).catch(() => null);
  if (!answer?.ok) return;
  $("versions-list").innerHTML = await answer.text();              // escaped by the same templates as every page
  tellTimes($("versions-list"));
  $("versions").showModal();
}

messageActs.versions = showVersions;
if ($("actions")) {
  messageActs.edit = openEditor($("messages"), $("compose"));
  messageActs.delete = dialogs.act("delete-message", openDeletion);
  openActions($("messages"), (name, message) => messageActs[name]?.(message));
}
