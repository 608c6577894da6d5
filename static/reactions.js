// Reactions: a click on one gives it too, or takes one's own back. The browser marks those of its own person.
"use strict";

const SIGN_CHARS = 8;             // of a membership's id, as the server sends them

async function giveReaction(message, emoji, isGiven) {
  const why = await ask("POST", `${pathOf(message)}/reaction`, {emoji, on: isGiven ? "1" : "0"});
  if (why) $("heard").textContent = why;
  return why;
}

// The same frame goes to everybody; whose the reactions are stands in it.
function markMine(list) {
  const sign = list.dataset.mem.slice(0, SIGN_CHARS);
  for (const reaction of list.querySelectorAll(".reaction")) {
    const isMine = String(reaction.dataset.mems.split(" ").includes(sign));
    if (reaction.getAttribute("aria-pressed") !== isMine) reaction.setAttribute("aria-pressed", isMine);
  }
}

async function showReacted(message) {
  if (!await dialogs.get("reacted")) return;
  const answer = await fetch(`${pathOf(message)}/reactions`, {headers: {"HX-Request": "true"}}).catch(() => null);
  if (!answer?.ok) return;
  $("reacted-list").innerHTML = await answer.text();               // escaped by the same templates as every page
  $("reacted").showModal();
}

// A dialog with the usual ones, and a field for any other.
function openPicker(dialog) {
  const failure = dialog.querySelector(".error"), other = $("react-other");
  let message = null;
  async function give(emoji) {
    const why = emoji.trim() ? await giveReaction(message, emoji, true) : "Choose an emoji, or type one.";
    failure.textContent = why;
    failure.hidden = !why;
    if (!why) dialog.close();
  }
  dialog.addEventListener("click", event => {
    const choice = event.target.closest(".reaction");
    if (choice) give(choice.dataset.emoji);
  });
  dialog.querySelector("form").addEventListener("submit", event => { event.preventDefault(); give(other.value); });
  dialog.addEventListener("close", () => $("text")?.focus());
  return one => {
    message = one;
    other.value = "";
    failure.hidden = true;
    dialog.showModal();
    dialog.querySelector(".reaction").focus();
  };
}

if ($("actions")) {
  const list = $("messages");
  messageActs.react = dialogs.act("react", openPicker);
  messageActs.reactions = showReacted;
  list.addEventListener("click", event => {
    const reaction = event.target.closest(".reaction");
    if (!reaction) return;
    const isMine = reaction.getAttribute("aria-pressed") === "true";
    giveReaction(reaction.closest(".message"), reaction.dataset.emoji, !isMine);
  });
}
if ($("messages")) {
  const list = $("messages"), what = ["data-mems", "aria-pressed"];
  const observer = new MutationObserver(() => markMine(list));
  observer.observe(list, {childList: true, subtree: true, attributes: true, attributeFilter: what});
  markMine(list);
}
