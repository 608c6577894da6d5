// Mentions: the frame of a message is the same for everybody, so each page marks what is for its own reader.
"use strict";

function markMentions(list) {
  const mine = list.dataset.mem, called = new Set();
  for (const mention of list.querySelectorAll(".mention")) {
    const message = mention.closest(".message"), isMe = mention.dataset.mem === mine;
    mention.classList.toggle("to-me", isMe);
    if ((isMe || mention.matches(".everyone")) && message.dataset.mem !== mine) called.add(message);
  }
  for (const message of list.querySelectorAll(".for-me")) message.classList.toggle("for-me", called.has(message));
  for (const message of called) message.classList.add("for-me");
}

if ($("messages")) {
  const mark = () => markMentions($("messages"));
  new MutationObserver(mark).observe($("messages"), {childList: true, subtree: true});
  document.addEventListener("htmx:after:swap", mark);
  mark();
}
