// Addresses of messages, days, and pages in the past that hold some hundreds of messages at most.
"use strict";

// The day that a reader means begins at their own midnight.
document.addEventListener("submit", event => {
  if (event.target.id !== "day-form") return;
  event.preventDefault();
  const midnight = new Date(`${$("day").value}T00:00`);
  location.assign(`${event.target.action}?${new URLSearchParams({from: midnight.toISOString()})}`);
});

if ($("actions")) messageActs.link = async message => {
  const link = `${location.origin}${HERE}/at/${idOf(message)}`;
  await copyText(link);
  toast("The link is copied.");
};

// A link at one end of the list, which loads what comes before or after a message.
function loader(id, address, words) {
  const load = {"hx-get": address, "hx-target": `#${id}`, "hx-swap": "outerHTML"};
  const when = {"hx-trigger": "click, intersect root:#messages rootMargin:300px"};
  const link = element("a", {class: "button soft", href: address, ...load, ...when}, words);
  return element("p", {class: "older", id}, link);
}

// Messages beyond the bound go at the end that the reader is not at; a link there brings them back.
function boundList(list) {
  const path = HERE, isLive = list.hasAttribute("hx-ws:connect");
  const messages = [...list.querySelectorAll(".message:not(.pending)")];
  const over = messages.length - Number(list.dataset.shownMax);
  if (over <= 0) return;
  const isNearEnd = list.scrollHeight - list.scrollTop - list.clientHeight < list.scrollTop;
  if (!isNearEnd && isLive) {                              // what is new comes at the end: nothing may be missing there
    const address = `${path}/at/${idOf(messages[0])}`;
    const link = $("older")?.querySelector("a[hx-get]");
    link?.replaceWith(element("a", {class: "button soft", href: address}, "Older messages"));
    return;
  }
  const gone = isNearEnd ? messages.slice(0, over) : messages.slice(-over);
  const kept = isNearEnd ? messages[over] : messages.at(-over - 1);
  for (const message of gone) message.remove();
  const older = ["older", "?before=", "Older messages"], newer = ["newer", "/newer?after=", "Newer messages"];
  const [id, query, words] = isNearEnd ? older : newer;
  const link = loader(id, `${path}${query}${idOf(kept)}`, words);
  $(id)?.remove();
  if (isNearEnd) list.prepend(link);
  else list.append(link);
  htmx.process(link);
}

if ($("messages")) {
  const list = $("messages");
  new MutationObserver(() => boundList(list)).observe(list, {childList: true});
}
